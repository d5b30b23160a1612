"""Least squares between predictions without a scale and their targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.alignment import scale_and_shift
from evaluation.depth import DepthMetrics
from perception.seeding import sample_generator


def make_depth(seed, count=3):
    return torch.rand(count, 1, 6, 7, generator=sample_generator(seed)) * 9 + 1


@pytest.mark.parametrize(("factor", "offset"), [(0.3, 0.2), (7.0, -0.05)])
def test_any_line_through_the_true_disparity_scores_no_error(factor, offset):
    depth = make_depth(0)
    valid = make_depth(1) > 4
    disparity = 1 / depth
    found = torch.where(valid, factor * disparity + offset, -50.0)
    scale, shift = scale_and_shift(found, disparity, valid)
    aligned = scale * found + shift
    rmse = (aligned - disparity)[valid].square().mean().sqrt()
    assert rmse < 1e-6
    metrics = DepthMetrics()
    metrics.update((1 / aligned).float(), torch.where(valid, depth, 0.0))
    assert metrics.compute()["abs_rel"] == pytest.approx(0, abs=1e-5)


def test_scale_and_shift_are_those_of_a_linear_fit_of_each_image():
    found, wanted, valid = make_depth(0), make_depth(1), make_depth(2) > 3
    scale, shift = scale_and_shift(found, wanted, valid)
    for i in range(len(found)):
        pixels = valid[i]
        expected = np.polyfit(found[i][pixels].double().numpy(), wanted[i][pixels].numpy(), 1)
        np.testing.assert_allclose([scale[i].item(), shift[i].item()], expected, rtol=1e-6)


def test_a_constant_prediction_becomes_the_mean_target():
    wanted = make_depth(0)
    valid = torch.ones_like(wanted, dtype=torch.bool)
    scale, shift = scale_and_shift(torch.full_like(wanted, 2.0), wanted, valid)
    assert not scale.any()
    torch.testing.assert_close(shift.float(), wanted.mean(dim=(1, 2, 3), keepdim=True))
