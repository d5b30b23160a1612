"""Loading checkpoints, freezing them and encoding prompts."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from perception.diffusion.backbone import load_backbone
from perception.diffusion.features import FeatureSettings, extract_features
from perception.diffusion.halfway import denoise
from perception.diffusion.text import PromptEncoder
from perception.seeding import sample_generator
from schemas.config import CreatorSection
from schemas.errors import ConfigError
from tests.kit.models.folders import with_shards, with_variant
from tests.kit.tiny_models import tiny_backbone, tiny_diffusion_folder


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(tiny_diffusion_folder("epsilon"), tmp_path / "model")


def same_output(left, right):
    latents = torch.randn(1, 4, 8, 8, generator=sample_generator(0))
    images = np.full((1, 32, 32, 3), 90, dtype=np.uint8)
    settings = FeatureSettings(posterior="mode", add_noise=False)
    outputs = [
        (
            each.predict(latents, 10, each.embed_text(["a bed"])),
            extract_features(each, images, settings=settings)[0][0],
        )
        for each in (left, right)
    ]
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*outputs, strict=True))


def test_a_backbone_is_frozen_and_knows_its_sizes():
    backbone = tiny_backbone()
    for network in (backbone.vae, backbone.unet, backbone.prompts._text_encoder):
        assert not network.training
        assert not any(each.requires_grad for each in network.parameters())
    assert backbone.scaling_factor == 0.18215
    assert backbone.downsample_factor == 4
    assert backbone.latent_channels == 4
    assert backbone.image_size_px == 32
    assert backbone.block_out_channels == (8, 16, 24, 32)
    assert backbone.schedule.prediction_type == "v_prediction"
    assert backbone.schedule.final_alpha_bar == pytest.approx(0.99915)


@pytest.mark.slow
def test_the_loader_runs_what_the_pipeline_of_diffusers_runs():
    """Independent reader: diffusers' own text-to-image pipeline from the same folder."""
    folder = tiny_diffusion_folder()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    noise = torch.randn(1, 4, 8, 8, generator=sample_generator(0))
    for scale in (1.0, 3.0):
        theirs = pipeline(
            "a bed",
            latents=noise,
            num_inference_steps=5,
            guidance_scale=scale,
            output_type="latent",
        ).images
        settings = CreatorSection(t_start=1000, num_steps=5, guidance_scale=scale)
        ours = denoise(tiny_backbone(), noise, ["a bed"], settings=settings)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_in_the_layout_of_stable_diffusion_1_5_gives_the_same_network(folder):
    expected = load_backbone(folder)
    # The layout of 2022: vocabulary and merges apart, a PNDM scheduler, other names of weights.
    tokenizer = folder / "tokenizer"
    parts = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(parts["vocab"]))
    merges = [each if isinstance(each, str) else " ".join(each) for each in parts["merges"]]
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 12,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    scheduler = {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    }
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    rename_weights(folder / "text_encoder/model.safetensors", add_text_model_prefix)
    rename_weights(folder / "vae/diffusion_pytorch_model.safetensors", old_attention_name)
    original = load_backbone(folder)
    assert original.schedule.prediction_type == "epsilon"
    assert torch.equal(original.schedule.alpha_bar, expected.schedule.alpha_bar)
    assert torch.equal(original.embed_text(["a bed", ""]), expected.embed_text(["a bed", ""]))
    assert same_output(original, expected)


def rename_weights(path, rename):
    weights = {rename(name): each for name, each in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})


def add_text_model_prefix(name):
    return name if name.startswith("text_model.") else f"text_model.{name}"


def old_attention_name(name):
    for new, old in (
        ("to_q.", "query."),
        ("to_k.", "key."),
        ("to_v.", "value."),
        ("to_out.0.", "proj_attn."),
    ):
        name = name.replace(new, old)
    return name


@pytest.mark.slow
def test_the_id_follows_the_content_not_the_place(folder):
    first = load_backbone(folder).model_id
    assert first == load_backbone(tiny_diffusion_folder("epsilon")).model_id
    assert first != tiny_backbone("v_prediction").model_id
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"] += 1e-3
    save_file(weights, path, {"format": "pt"})
    assert load_backbone(folder).model_id != first


@pytest.mark.parametrize("variant", ["fp16", None])
def test_weights_of_a_variant_or_in_shards_give_the_same_network(folder, variant):
    expected = load_backbone(folder)
    with_shards(folder / "unet", variant)
    if variant:
        for name in ("vae/diffusion_pytorch_model", "text_encoder/model"):
            with_variant(folder / f"{name}.safetensors", variant)
    found = load_backbone(folder)
    assert same_output(found, expected)
    assert found.model_id != expected.model_id


def test_half_precision_weights_give_nearly_the_same_prediction():
    full, half = tiny_backbone(), load_backbone(tiny_diffusion_folder(), dtype=torch.bfloat16)
    assert {each.dtype for each in half.unet.parameters()} == {torch.bfloat16}
    latents = torch.randn(1, 4, 8, 8, generator=sample_generator(0))
    outputs = [each.predict(latents, 300, each.embed_text(["a bed"])) for each in (full, half)]
    assert outputs[1].dtype == torch.float32
    error = (outputs[0] - outputs[1]).square().mean().sqrt() / outputs[0].std()
    assert error < 0.05


def test_a_missing_folder_is_named_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (tmp_path / "absent", "absent/model"):
        with pytest.raises(ConfigError, match=r"absent.*Train or copy the model"):
            load_backbone(name, local_files_only=True)


def test_missing_files_are_listed(folder):
    (folder / "vae/config.json").unlink()
    with pytest.raises(ConfigError, match=r"missing vae/config\.json"):
        load_backbone(folder)


def test_weights_that_are_not_safetensors_are_refused(folder):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ConfigError, match="only safetensors"):
        load_backbone(folder)


def test_a_checkpoint_whose_parts_do_not_fit_is_refused(folder):
    unet = json.loads((folder / "unet/config.json").read_text())
    unet["in_channels"] = 9
    (folder / "unet/config.json").write_text(json.dumps(unet))
    weights_path = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(weights_path)
    weights["conv_in.weight"] = torch.zeros(8, 9, 3, 3)
    save_file(weights, weights_path, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"in_channels 4.*found 9"):
        load_backbone(folder)


def test_a_prompt_is_encoded_once_and_stays_the_same_in_any_company():
    backbone = tiny_backbone()
    alone = backbone.embed_text(["a bed"])
    together = backbone.embed_text(["a lamp", "a bed", "", "a bed"])
    assert together.shape == (4, 12, 16)
    torch.testing.assert_close(together[1:2], alone)
    assert torch.equal(together[1], together[3])
    assert not torch.equal(together[0], together[1])


def test_the_cache_forgets_the_least_recently_used_prompt():
    tiny = tiny_backbone().prompts
    encoder = PromptEncoder(tiny._tokenizer, tiny._text_encoder, max_cached=2)
    calls = []
    encode = encoder._encode
    encoder._encode = lambda prompts: calls.append(list(prompts)) or encode(prompts)
    encoder.embed(["a", "b"])
    encoder.embed(["a"])
    assert encoder.embed(["c", "d", "e"]).shape[0] == 3
    assert encoder.num_cached == 2
    encoder.embed(["e", "a"])
    assert calls == [["a", "b"], [], ["c", "d", "e"], ["a"]]


def test_a_long_prompt_is_cut_and_no_prompt_is_refused():
    backbone = tiny_backbone()
    long = backbone.embed_text(["a bed and a lamp and a sofa and a table " * 20])
    assert long.shape == (1, 12, 16)
    with pytest.raises(ValueError, match="at least one"):
        backbone.embed_text([])
