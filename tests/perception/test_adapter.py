"""The adapter's channel plan, the sides of its maps and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from perception.adapter import AdapterPlan, DiffusionAdapter, SegBlock, bae_channel_plan
from tests.kit.models.pyramids import (
    SD_BLOCKS,
    SD_LEVELS,
    SMALL_BLOCKS,
    SMALL_LEVELS,
    make_pyramid,
)


def test_stable_diffusion_gets_the_published_widths() -> None:
    plan = bae_channel_plan(SD_BLOCKS, 8)
    assert plan.channels == (2048, 176, 64, 40, 24)
    assert plan.num_refinements == 3


def test_a_smaller_backbone_gets_scaled_widths_that_group_norm_can_split() -> None:
    plan = bae_channel_plan(SMALL_BLOCKS, 4)
    assert plan.channels == (208, 32, 32, 32)
    assert plan.num_refinements == 2


@pytest.mark.parametrize(("blocks", "factor"), [((320, 640, 1280), 8), (SD_BLOCKS, 1)])
def test_a_backbone_without_a_published_plan_is_refused(blocks, factor) -> None:
    with pytest.raises(ValueError, match="AdapterPlan"):
        bae_channel_plan(blocks, factor)


def test_stable_diffusion_maps_have_the_published_shapes() -> None:
    with torch.device("meta"):
        adapter = DiffusionAdapter(
            SD_LEVELS, bae_channel_plan(SD_BLOCKS, 8), use_spectral_norm=False
        )
        maps = adapter(make_pyramid(2, levels=SD_LEVELS, lowest_side=8, device="meta").maps)
    assert [tuple(each.shape[1:]) for each in maps] == [
        (2048, 16, 16),
        (176, 32, 32),
        (64, 64, 64),
        (40, 128, 128),
        (24, 256, 256),
    ]


@pytest.mark.parametrize(
    ("factor", "sides"), [(2, [4, 8, 16]), (4, [4, 8, 16, 32]), (8, [4, 8, 16, 32, 64])]
)
def test_sides_double_up_to_half_the_image(factor: int, sides: list[int]) -> None:
    adapter = DiffusionAdapter(SMALL_LEVELS, bae_channel_plan(SMALL_BLOCKS, factor))
    maps = adapter(make_pyramid(1).maps)
    assert [each.shape[-1] for each in maps] == sides
    assert sides[-1] == 16 * factor // 2


def test_one_image_with_the_smallest_maps_trains() -> None:
    adapter = DiffusionAdapter(SMALL_LEVELS, bae_channel_plan(SMALL_BLOCKS, 4)).train()
    maps = adapter(make_pyramid(1, lowest_side=1).maps)
    assert all(torch.isfinite(each).all() for each in maps)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_every_parameter_of_the_adapter_gets_a_gradient_and_the_features_none(factor: int) -> None:
    adapter = DiffusionAdapter(SMALL_LEVELS, bae_channel_plan(SMALL_BLOCKS, factor))
    pyramid = make_pyramid(2)
    sum((each**2).sum() for each in adapter(pyramid.maps)).backward()
    untouched = [name for name, value in adapter.named_parameters() if value.grad is None]
    assert not untouched
    assert all(each.grad is None for level in pyramid.maps for each in level)


def test_projecting_first_equals_the_published_order() -> None:
    maps = make_pyramid(2).maps[0]
    project = nn.Conv2d(sum(each.shape[1] for each in maps), 16, kernel_size=1, bias=False)
    raised = [functional.interpolate(each, scale_factor=2, mode="bilinear") for each in maps]
    ours = functional.interpolate(project(torch.cat(maps, dim=1)), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(ours, project(torch.cat(raised, dim=1)))


def test_merging_kernels_have_a_largest_singular_value_of_one() -> None:
    block = SegBlock(12, 8).train()
    for _ in range(50):
        block(torch.randn(2, 12, 4, 4))
    kernel = block.eval().conv_in.weight.flatten(1)
    assert torch.linalg.matrix_norm(kernel, ord=2).item() == pytest.approx(1.0, abs=1e-2)


def test_levels_of_another_backbone_are_refused() -> None:
    plan = AdapterPlan(merge_channels=(32, 32, 32), extra_channels=(), width_ratio=0.1)
    with pytest.raises(ValueError, match="wanted 4 levels"):
        DiffusionAdapter(SMALL_LEVELS[:3], plan)
    with pytest.raises(ValueError, match="wanted 4 levels"):
        DiffusionAdapter(SMALL_LEVELS, plan)(make_pyramid(1).maps[:3])
