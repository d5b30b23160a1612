"""Uncertainty-guided points: how many, which ones, and where they lie."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from perception.points import (
    choose_points,
    paste_points,
    read_points,
    read_points_bilinear,
    resize_nearest,
)

SIDE = 20
NUM_POINTS = 160
NUM_UNCERTAIN = 112


def shuffled_kappa(batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    ranks = [torch.randperm(SIDE * SIDE, generator=generator) for _ in range(batch)]
    return 1.0 + torch.stack(ranks).view(batch, SIDE, SIDE).float()


def test_two_fifths_of_the_pixels_are_chosen_once_each() -> None:
    points = choose_points(shuffled_kappa())
    assert points.shape == (3, NUM_POINTS)
    assert all(len(set(row.tolist())) == NUM_POINTS for row in points)


def test_the_first_seven_tenths_are_the_most_uncertain() -> None:
    kappa = shuffled_kappa()
    chosen = read_points(kappa.unsqueeze(1), choose_points(kappa)).squeeze(1)
    wanted = torch.arange(1.0, NUM_UNCERTAIN + 1).expand(3, -1)
    assert torch.equal(chosen[:, :NUM_UNCERTAIN].sort(dim=1).values, wanted)


def test_pixels_without_ground_truth_are_not_taken_for_uncertain() -> None:
    kappa = shuffled_kappa()
    valid = torch.rand(kappa.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    points = choose_points(kappa, valid_Bhw=valid)[:, :NUM_UNCERTAIN]
    assert read_points(valid.unsqueeze(1), points).all()


def test_the_rest_is_drawn_uniformly_from_what_is_left() -> None:
    kappa = shuffled_kappa(1).expand(400, -1, -1)
    generator = torch.Generator().manual_seed(0)
    points = choose_points(kappa, generator=generator)
    counts = torch.bincount(points.flatten(), minlength=SIDE * SIDE)
    left = counts[kappa[0].flatten() > NUM_UNCERTAIN].double() / 400
    share = (NUM_POINTS - NUM_UNCERTAIN) / (SIDE * SIDE - NUM_UNCERTAIN)
    assert left.mean().item() == pytest.approx(share)
    assert (left - share).abs().max() < 5 * (share * (1 - share) / 400) ** 0.5


def test_the_same_generator_seed_chooses_the_same_points() -> None:
    kappa = shuffled_kappa()
    first, second, other = (
        choose_points(kappa, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_reading_a_coarse_map_at_points_equals_up_sampling_it() -> None:
    coarse = torch.randn(2, 3, 5, 7)
    points = torch.stack([torch.randperm(10 * 14)[:50] for _ in range(2)])
    raised = functional.interpolate(coarse, size=(10, 14), mode="bilinear", align_corners=True)
    read = read_points_bilinear(coarse, points, grid_size=(10, 14))
    torch.testing.assert_close(read, read_points(raised, points), atol=1e-5, rtol=1e-5)


def test_pasted_points_can_be_read_back_and_the_rest_stays() -> None:
    maps, values = torch.zeros(2, 4, SIDE, SIDE), torch.ones(2, 4, NUM_POINTS)
    points = choose_points(shuffled_kappa(2))
    pasted = paste_points(maps, points, values)
    assert torch.equal(read_points(pasted, points), values)
    assert pasted.sum() == values.sum()


def test_nearest_resizing_keeps_the_corners() -> None:
    labels = torch.arange(64).view(1, 1, 8, 8)
    small = resize_nearest(labels, (3, 3))
    assert small.flatten().tolist() == [0, 4, 7, 32, 36, 39, 56, 60, 63]
    assert resize_nearest(labels, (8, 8)) is labels
