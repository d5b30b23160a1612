"""The ViT encoder and the diffusion features that join it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import ViTModel

from perception.merge import DiffusionMerge, DoubledScale, HalvedScale
from perception.vit import (
    PatchEncoder,
    PatchTokens,
    ViTEncoder,
    drop_path,
    drop_rates,
    host_width,
    make_vit,
    prepare_images,
    tap_blocks,
    tokens_to_map,
    vit_config,
)
from schemas.errors import ConfigError
from tests.kit.models.multi_task import num_parameters
from tests.kit.models.pyramids import SMALL_LEVELS, make_pyramid


def test_ratio_one_is_vit_large_with_patches_of_16() -> None:
    with torch.device("meta"):
        vit = make_vit(None, width_ratio=1.0, vae_scale_factor=8)
    found = vit.config
    assert (found.hidden_size, found.num_hidden_layers, found.num_attention_heads) == (1024, 24, 16)
    assert (found.patch_size, found.image_size, found.intermediate_size) == (16, 384, 4096)
    # A block: four 1024 x 1024 layers, an MLP of 4096, biases, two norms.
    block = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    outside = 3 * 16 * 16 * 1024 + 1024 + 1024 * (1 + 24 * 24 + 1) + 2 * 1024
    assert num_parameters(vit) == 24 * block + outside


def test_a_tiny_vit_keeps_quarters_and_whole_heads() -> None:
    found = vit_config(0.1, 8)
    assert (found.hidden_size, found.num_hidden_layers, found.num_attention_heads) == (96, 4, 2)
    assert tap_blocks(4) == (1, 2, 3, 4)
    assert tap_blocks(12) == (3, 6, 9, 12)
    assert tap_blocks(24) == (6, 12, 18, 24)
    with pytest.raises(ValueError, match="found 10"):
        tap_blocks(10)


def test_published_widths_come_back_unchanged_at_ratio_one() -> None:
    assert [host_width(width, 1) for width in (300, 350, 576)] == [300, 350, 576]
    assert [host_width(width, 0.1) for width in (300, 768)] == [32, 80]


def test_taps_are_the_hidden_states_of_transformers_own_forward() -> None:
    vit = make_vit(None, width_ratio=0.1, vae_scale_factor=4).eval()
    images = torch.randn(2, 3, 64, 48)
    encoder = ViTEncoder(vit, (1, 2, 4))
    taps = encoder(images)
    wanted = vit(images, interpolate_pos_encoding=True, output_hidden_states=True)
    for tap, hidden in zip(taps[:2], wanted.hidden_states[1:3], strict=True):
        assert tuple(tap.shape) == (2, 96, 8, 6)
        torch.testing.assert_close(tap, tokens_to_map(hidden[:, 1:], (8, 6)))
    torch.testing.assert_close(
        taps[2], tokens_to_map(wanted.last_hidden_state[:, 1:], (8, 6)), atol=1e-5, rtol=1e-4
    )


def test_patch_tokens_are_the_vits_embeddings_without_the_class_token() -> None:
    vit = make_vit(None, width_ratio=0.1, vae_scale_factor=4)
    for size in ((192, 192), (64, 40)):
        images = torch.randn(1, 3, *size)
        tokens, grid = PatchTokens(vit)(images)
        assert grid == (size[0] // 8, size[1] // 8)
        wanted = vit.embeddings(images, interpolate_pos_encoding=True)[:, 1:]
        torch.testing.assert_close(tokens, wanted)


def test_a_pretrained_vit_loads_from_a_folder_of_save_pretrained(tmp_path) -> None:
    torch.manual_seed(1)
    saved = ViTModel(vit_config(0.1, 4), add_pooling_layer=True)
    saved.save_pretrained(tmp_path)
    loaded = make_vit(tmp_path, width_ratio=1.0, vae_scale_factor=8)
    assert loaded.config.patch_size == 4
    wanted = {k: v for k, v in saved.state_dict().items() if not k.startswith("pooler")}
    assert wanted.keys() == loaded.state_dict().keys()
    assert all(torch.equal(wanted[name], value) for name, value in loaded.state_dict().items())


def test_a_folder_without_safetensors_is_refused(tmp_path) -> None:
    vit_config(0.1, 4).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="safetensors"):
        make_vit(tmp_path, width_ratio=1.0, vae_scale_factor=8)


def test_images_are_standardised_and_rounded_up_to_whole_patches() -> None:
    grey = (torch.tensor([0.485, 0.456, 0.406]) * 2 - 1).view(1, 3, 1, 1).expand(1, 3, 50, 33)
    prepared = prepare_images(grey, 8, multiple=2)
    assert tuple(prepared.shape) == (1, 3, 64, 48)
    torch.testing.assert_close(prepared, torch.zeros_like(prepared), atol=1e-5, rtol=0)
    white = prepare_images(torch.ones(1, 3, 8, 8), 8)
    torch.testing.assert_close(
        white[0, :, 0, 0], torch.tensor([2.2489, 2.4286, 2.64]), atol=1e-4, rtol=0
    )


def test_dropped_branches_keep_the_mean_and_follow_the_generator() -> None:
    branch = torch.ones(20_000, 1)
    draws = [
        drop_path(branch, 0.25, is_training=True, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    assert torch.equal(*draws)
    assert draws[0].mean().item() == pytest.approx(1.0, abs=0.02)
    assert draws[0].unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert drop_path(branch, 0.25, is_training=False) is branch


def test_later_blocks_drop_more_branches() -> None:
    assert drop_rates(4) == pytest.approx([0, 0.05, 0.1, 0.15])


@torch.no_grad()
def test_patches_pass_the_vits_own_blocks_without_the_class_token() -> None:
    vit = make_vit(None, width_ratio=0.1, vae_scale_factor=4).eval()
    images = torch.randn(2, 3, 64, 48)
    encoder = PatchEncoder(vit).eval()
    tokens, _ = PatchTokens(vit)(images)
    taps = encoder(images)
    for index, (layer, tap) in enumerate(zip(vit.layers, taps, strict=True)):
        tokens = layer(tokens, None)
        wanted = vit.layernorm(tokens) if index == 3 else tokens
        torch.testing.assert_close(tap, tokens_to_map(wanted, (8, 6)), atol=1e-5, rtol=1e-4)
    assert num_parameters(encoder) == num_parameters(vit) - 2 * vit.config.hidden_size


@torch.no_grad()
def test_in_training_the_generator_decides_which_branches_are_dropped() -> None:
    encoder = PatchEncoder(make_vit(None, width_ratio=0.1, vae_scale_factor=4)).train()
    images = torch.randn(1, 3, 16, 16).expand(64, -1, -1, -1)
    found = [encoder(images, generator=torch.Generator().manual_seed(i))[3] for i in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def make_merge(*, patch_size: int, starts_at_zero: bool = False) -> DiffusionMerge:
    torch.manual_seed(0)
    return DiffusionMerge(
        SMALL_LEVELS,
        24,
        patch_size=patch_size,
        vae_scale_factor=4,
        width_ratio=0.1,
        starts_at_zero=starts_at_zero,
    )


@pytest.mark.parametrize(
    ("patch_size", "wanted"),
    [
        (4, ([DoubledScale] * 2, [DoubledScale], [])),
        (8, ([DoubledScale], [], [HalvedScale])),
        (16, ([], [HalvedScale], [HalvedScale] * 2)),
        (14, ([], [HalvedScale], [HalvedScale] * 2)),
    ],
)
def test_eq_10_doubles_or_halves_until_the_stride_is_the_encoders(patch_size, wanted) -> None:
    merge = make_merge(patch_size=patch_size)
    assert tuple([type(step) for step in scale] for scale in merge.scales) == wanted
    maps = make_pyramid(2).maps
    assert [tuple(each.shape) for each in merge(maps, (5, 7))] == [(2, 24, 5, 7)] * 3


@pytest.mark.parametrize(("step", "side"), [(HalvedScale, 4), (DoubledScale, 14)])
def test_a_step_of_eq_10_joins_the_resized_and_the_learnt_map(step, side: int) -> None:
    torch.manual_seed(0)
    scale = step(8).eval()
    with torch.no_grad():
        scale.joined.weight.zero_()
        scale.joined.bias.zero_()
        for channel in range(8):
            scale.joined.weight[channel, channel, 1, 1] = 1
    maps = torch.randn(1, 8, 7, 7)
    found = scale(maps)
    resize = nn.functional.adaptive_avg_pool2d
    if step is DoubledScale:
        wanted = nn.functional.interpolate(maps, size=(14, 14), mode="bilinear")
    else:
        wanted = resize(maps, (4, 4))
    assert tuple(found.shape) == (1, 8, side, side)
    torch.testing.assert_close(found, wanted)


def test_a_merge_that_starts_at_zero_gives_zeros_and_learns() -> None:
    merge = make_merge(patch_size=8, starts_at_zero=True)
    given = merge(make_pyramid(2).maps, (8, 8))
    assert all(not each.any() for each in given)
    torch.stack(given).sum().backward()
    assert all(project.weight.grad.any() for project in merge.projections)


def test_a_backbone_of_three_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="4 levels"):
        DiffusionMerge(
            SMALL_LEVELS[1:],
            24,
            patch_size=8,
            vae_scale_factor=4,
            width_ratio=0.1,
            starts_at_zero=False,
        )
