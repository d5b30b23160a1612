"""Stable Diffusion as one file of all weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from perception.diffusion.backbone import load_backbone
from perception.diffusion.headers import read_diffusion_headers
from perception.seeding import sample_generator
from schemas.errors import ConfigError
from tests.kit.models.single_file import write_single_file
from tests.kit.tiny_models import tiny_backbone, tiny_diffusion_folder

UNET = "model.diffusion_model."


@pytest.fixture
def folder():
    return tiny_diffusion_folder()


@pytest.fixture
def checkpoint(folder, tmp_path):
    return write_single_file(folder, tmp_path / "dream.safetensors")


def rewrite(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["starter", "stable"])
def test_one_file_gives_the_same_network_as_the_folder(layout, tmp_path):
    folder = tiny_diffusion_folder("v_prediction", layout)
    path = write_single_file(folder, tmp_path / "dream.safetensors")
    expected = tiny_backbone("v_prediction", layout)
    found = load_backbone(path, config=folder, local_files_only=True)
    parts = (
        (found.unet, expected.unet),
        (found.vae, expected.vae),
        (found.prompts._text_encoder, expected.prompts._text_encoder),
    )
    for ours, theirs in parts:
        state = theirs.state_dict()
        assert ours.state_dict().keys() == state.keys()
        assert all(torch.equal(each, state[name]) for name, each in ours.state_dict().items())
        assert not ours.training
        assert not any(each.requires_grad for each in ours.parameters())
    latents = torch.randn(1, 4, 8, 8, generator=sample_generator(0))
    outputs = [each.predict(latents, 10, each.embed_text(["a bed"])) for each in (found, expected)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    assert found.schedule.prediction_type == "v_prediction"


def test_configurations_are_also_found_beside_the_file(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    path = write_single_file(folder, copy / "dream.safetensors")
    half = load_backbone(path, dtype=torch.bfloat16, local_files_only=True)
    assert {each.dtype for each in half.unet.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in half.prompts._text_encoder.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_the_id_follows_the_content_not_the_name_or_place(folder, checkpoint, tmp_path):
    first = load_backbone(checkpoint, config=folder).model_id
    copy = shutil.copytree(folder, tmp_path / "configurations")
    moved = checkpoint.rename(copy / "other.safetensors")
    assert load_backbone(moved).model_id == first
    rewrite(moved, lambda weights: weights[f"{UNET}out.2.bias"].add_(1e-3))
    assert load_backbone(moved).model_id != first


def test_headers_are_sorted_by_network(folder, checkpoint):
    found = read_diffusion_headers(checkpoint, config=folder)
    assert found["unet"].tensors["input_blocks.0.0.weight"].shape == (8, 4, 3, 3)
    assert found["unet"].dtypes == ("F32",)
    assert found["text_encoder"].config["hidden_size"] == 16
    assert 0 < sum(each.num_bytes for each in found.values()) < checkpoint.stat().st_size


def test_configurations_of_another_model_are_refused(folder, checkpoint, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "configurations")
    config = json.loads((copy / "unet/config.json").read_text())
    config["block_out_channels"] = [32, 32, 32, 32]
    (copy / "unet/config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"block_out_channels is 8, .* says 32; .*diffusion_conf"):
        read_diffusion_headers(checkpoint, config=copy)


def test_a_file_that_lacks_a_tensor_is_refused(folder, checkpoint):
    rewrite(checkpoint, lambda weights: weights.pop(f"{UNET}out.2.bias"))
    with pytest.raises(ConfigError, match="wanted all tensors of its unet"):
        load_backbone(checkpoint, config=folder)


def test_a_file_without_a_part_or_of_another_kind_is_named(folder, checkpoint, tmp_path):
    rewrite(checkpoint, lambda weights: [weights.pop(k) for k in list(weights) if "first" in k])
    with pytest.raises(ConfigError, match=r"found no vae \(first_stage_model\.…\)"):
        read_diffusion_headers(checkpoint, config=folder)
    with pytest.raises(ConfigError, match="looks like a U-Net alone, in the names of diffusers"):
        read_diffusion_headers(folder / "unet/diffusion_pytorch_model.safetensors")
    save_file({"lora_unet_down.alpha": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ConfigError, match="looks like a LoRA"):
        load_backbone(tmp_path / "lora.safetensors")


def test_configurations_that_are_nowhere_are_asked_for(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"no Stable Diffusion v1; .*model\.diffusion_config"):
        read_diffusion_headers(checkpoint)

    def widen(weights):
        for name in [name for name in weights if name.endswith("attn2.to_k.weight")]:
            weights[name] = torch.zeros(weights[name].shape[0], 768)

    rewrite(checkpoint, widen)
    for read in (read_diffusion_headers, load_backbone):
        with pytest.raises(
            ConfigError,
            match=r"model\.diffusion_config, or beside it: .*hf download "
            r"stable-diffusion-v1-5/stable-diffusion-v1-5 --include model_index\.json",
        ):
            read(checkpoint)


@pytest.mark.slow
def test_a_pickled_checkpoint_is_refused_with_the_command_that_converts_it(checkpoint, folder):
    pickled = checkpoint.with_suffix(".ckpt")
    torch.save({"state_dict": load_file(checkpoint), "global_step": 1}, pickled)
    checkpoint.unlink()
    with pytest.raises(ConfigError, match=r"only safetensors are read.*convert it once") as caught:
        load_backbone(pickled, config=folder)
    command = str(caught.value).split('python -c "')[1].rstrip('"')
    subprocess.run([sys.executable, "-c", command], check=True)
    assert load_backbone(checkpoint, config=folder).model_id
