"""Fréchet distance against the closed forms of Gaussians."""

from __future__ import annotations

import pytest
import torch

from evaluation.frechet import Gaussian, fit_gaussian, frechet_distance
from perception.shapes import ShapeError


def random_features(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ mixing


def test_identical_sets_have_distance_zero():
    fitted = fit_gaussian(random_features(50, 6))
    assert frechet_distance(fitted, fitted) == pytest.approx(0.0, abs=1e-8)


def test_identical_sets_have_distance_zero_with_fewer_images_than_features():
    fitted = fit_gaussian(random_features(5, 20))
    assert frechet_distance(fitted, fitted) == pytest.approx(0.0, abs=1e-5)


def test_a_shift_adds_its_squared_length():
    features = random_features(40, 3)
    offset = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    moved = fit_gaussian(features + offset)
    assert frechet_distance(fit_gaussian(features), moved) == pytest.approx(9.0)


def test_commuting_covariances_give_the_squared_difference_of_deviations():
    one = Gaussian(torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 4.0, 9.0]).double()))
    other = Gaussian(torch.zeros(3).double(), torch.diag(torch.tensor([4.0, 4.0, 1.0]).double()))
    wanted = (1 - 2) ** 2 + (2 - 2) ** 2 + (3 - 1) ** 2
    assert frechet_distance(one, other) == pytest.approx(wanted)


def test_the_distance_is_symmetric_and_does_not_depend_on_the_axes():
    one, other = (fit_gaussian(random_features(60, 4, seed)) for seed in (1, 2))
    distance = frechet_distance(one, other)
    assert distance > 0
    assert frechet_distance(other, one) == pytest.approx(distance)
    turn, _ = torch.linalg.qr(random_features(4, 4, 3))
    turned = [Gaussian(turn @ g.mean, turn @ g.covariance @ turn.T) for g in (one, other)]
    assert frechet_distance(*turned) == pytest.approx(distance)


def test_one_image_is_refused():
    with pytest.raises(ShapeError, match="at least 2 rows"):
        fit_gaussian(torch.zeros(1, 3))
