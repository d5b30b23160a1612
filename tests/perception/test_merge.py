"""Eq. 10: a scale that the U-Net lacks is made from its neighbour."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from perception.merge import DoubledScale, HalvedScale


@pytest.mark.parametrize(
    ("step", "size"), [(HalvedScale, (4, 3)), (DoubledScale, (14, 10))], ids=["halved", "doubled"]
)
def test_eq_10_halves_and_doubles_the_sides(step, size) -> None:
    assert tuple(step(6)(torch.randn(2, 6, 7, 5)).shape) == (2, 6, *size)


@torch.no_grad()
@pytest.mark.parametrize("step", [HalvedScale, DoubledScale])
def test_both_ways_join_the_resampled_map_with_a_learnt_one(step) -> None:
    torch.manual_seed(0)
    scale, maps = step(3).eval(), torch.randn(1, 3, 4, 4)
    if step is HalvedScale:
        resampled = functional.avg_pool2d(maps, 2)
    else:
        resampled = functional.interpolate(maps, scale_factor=2.0, mode="bilinear")
    wanted = scale.joined(torch.cat([resampled, scale.learnt(maps)], dim=1))
    torch.testing.assert_close(scale(maps), wanted)
