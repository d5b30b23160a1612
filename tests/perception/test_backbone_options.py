"""Options of the backbone: less memory or more speed, the same images and features."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.build import open_backbone
from perception.diffusion.backbone import BackboneOptions, load_backbone
from perception.diffusion.features import extract_features
from perception.diffusion.halfway import synthesize_halfway
from perception.diffusion.latents import decode_images, encode_moments
from perception.methods.spec import method_spec
from perception.seeding import sample_generator
from schemas.config import CreatorSection
from schemas.config_file import parse_config
from schemas.paths import resolve_path
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone, tiny_diffusion_folder

SETTINGS = CreatorSection(num_steps=4)
OPTIONS = {
    "contiguous": BackboneOptions(channels_last=False),
    "vae_slicing": BackboneOptions(vae_slicing=True),
    "vae_tiling": BackboneOptions(vae_tiling=True),
    "attention_slicing": BackboneOptions(attention_slicing=True),
}


def make_images(count=3, side=IMAGE_SIZE_PX):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def synthesize(backbone, images=None):
    images = make_images() if images is None else images
    prompts = ["a bed", "", "a lamp"]
    return synthesize_halfway(backbone, images, prompts, settings=SETTINGS, seeds=[1, 2, 3])


def expect_same_images(found, wanted):
    """At most one 8-bit step apart, and rarely that."""
    difference = np.abs(found.astype(int) - wanted.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_neither_images_nor_features(name):
    plain = tiny_backbone()
    changed = load_backbone(tiny_diffusion_folder(), options=OPTIONS[name])
    expect_same_images(synthesize(changed), synthesize(plain))
    maps = [
        extract_features(each, make_images(), generators=sample_generator(0)).maps
        for each in (changed, plain)
    ]
    for mine, theirs in zip(*maps, strict=True):
        for left, right in zip(mine, theirs, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_unet_makes_the_same_images_and_leaves_the_features_alone(monkeypatch):
    # Traced for real, but run as it is: turning it into C++ takes minutes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain = tiny_backbone()
    changed = load_backbone(tiny_diffusion_folder(), options=BackboneOptions(compile_unet=True))
    expect_same_images(synthesize(changed), synthesize(plain))
    traced = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert traced >= 1
    maps = [
        extract_features(each, make_images(), generators=sample_generator(0)).maps
        for each in (changed, plain)
    ]
    assert [len(level) for level in maps[0]] == [6, 6, 6, 7]
    assert torch.equal(maps[0][3][-1], maps[1][3][-1])
    expect_same_images(synthesize(changed), synthesize(plain))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == traced, "nothing anew"


@pytest.mark.slow
def test_layouts_are_as_asked():
    plain = tiny_backbone()
    contiguous = load_backbone(tiny_diffusion_folder(), options=OPTIONS["contiguous"])
    weights = [each.unet.down_blocks[0].resnets[0].conv1.weight for each in (plain, contiguous)]
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    assert weights[1].is_contiguous()
    assert torch.equal(*weights)


def test_slicing_takes_one_image_at_a_time():
    backbone = load_backbone(tiny_diffusion_folder(), options=OPTIONS["vae_slicing"])
    sizes = []
    handles = [
        network.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
        for network in (backbone.vae.encoder, backbone.vae.decoder)
    ]
    moments = encode_moments(backbone, make_images())
    decode_images(backbone, moments.mean * backbone.scaling_factor)
    for handle in handles:
        handle.remove()
    assert sizes == [1] * 6


def test_tiling_decodes_large_images_in_tiles_of_the_models_size():
    backbone = load_backbone(tiny_diffusion_folder(), options=OPTIONS["vae_tiling"])
    sides = []
    handle = backbone.vae.decoder.register_forward_pre_hook(
        lambda _module, args: sides.append(args[0].shape[-1])
    )
    latents = torch.randn(1, 4, 16, 16, generator=sample_generator(0)) * 0.18
    image = decode_images(backbone, latents)
    handle.remove()
    assert image.shape == (1, 2 * IMAGE_SIZE_PX, 2 * IMAGE_SIZE_PX, 3)
    assert len(sides) > 1
    assert max(sides) == IMAGE_SIZE_PX // backbone.downsample_factor


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_get_float32_latents_and_make_similar_images(dtype):
    half, full = load_backbone(tiny_diffusion_folder(), dtype=dtype), tiny_backbone()
    assert encode_moments(half, make_images()).mean.dtype == torch.float32
    found, wanted = synthesize(half), synthesize(full)
    difference = np.abs(found.astype(float) - wanted.astype(float)).mean()
    assert difference < 0.15 * wanted.astype(float).std()


def test_relative_folders_of_models_are_found_from_another_working_directory(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("perception.build.load_backbone", lambda folder, **_: seen.append(folder))
    stage = {"steps": 1}
    tree = {
        "run": {"url": "memory://x"},
        "method": {"encoder": "starter/captioner"},
        "training": {"warm_up": stage, "self_improve": stage},
    }
    monkeypatch.chdir(tmp_path)
    config = parse_config(tree, origin="test")
    open_backbone(config)
    found = [*seen, method_spec(config.method, tiny_backbone()).encoder]
    root = Path(__file__).parents[2]
    assert found == [str(root / "starter/diffusion"), str(root / "starter/captioner")]


def test_a_run_configuration_sets_every_option(monkeypatch):
    seen = {}

    def remember(folder, **options):
        seen.update(options, folder=folder)

    monkeypatch.setattr("perception.build.load_backbone", remember)
    model = {
        "device": "cpu",
        "dtype": "bfloat16",
        "channels_last": False,
        "compile": True,
        "vae_slicing": True,
        "vae_tiling": True,
        "attention_slicing": True,
        "variant": "fp16",
        "diffusion_config": "starter/diffusion",
    }
    stage = {"steps": 1}
    tree = {
        "run": {"url": "memory://x"},
        "model": model,
        "training": {"warm_up": stage, "self_improve": stage},
    }
    open_backbone(parse_config(tree, origin="test"))
    assert seen == {
        "folder": resolve_path("starter/diffusion"),
        "device": "cpu",
        "dtype": torch.bfloat16,
        "variant": "fp16",
        "config": resolve_path("starter/diffusion"),
        "options": BackboneOptions(
            channels_last=False,
            compile_unet=True,
            vae_slicing=True,
            vae_tiling=True,
            attention_slicing=True,
        ),
    }
