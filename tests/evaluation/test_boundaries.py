"""Boundary scores: perfect maps, toy cases, a slow implementation from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage.morphology import thin

from evaluation.boundaries import (
    BoundaryMetrics,
    average_precision,
    boundary_thresholds,
    match_boundaries,
)
from evaluation.edge_nms import suppress_non_maxima
from schemas.errors import NotFiniteError

SHAPE = (36, 44)


def circle(radius_px: float = 12.0) -> torch.Tensor:
    """A closed curve away from the border, [1, 1, H, W]."""
    rows, columns = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    distance = np.hypot(rows - 18, columns - 22)
    return torch.from_numpy(thin(np.abs(distance - radius_px) < 1)).float()[None, None]


def noisy(target: torch.Tensor, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    blurred = 2 * gaussian_filter(target.numpy()[0, 0], 1.0)
    noise = np.abs(gaussian_filter(rng.standard_normal(SHAPE), 1.0))
    return torch.from_numpy((blurred + 0.8 * noise).clip(0, 1)).float()[None, None]


def scores_of(*pairs: tuple[torch.Tensor, torch.Tensor], **options) -> dict[str, float]:
    metrics = BoundaryMetrics(**options)
    for prediction, target in pairs:
        metrics.update(prediction, target)
    return metrics.compute()


def slow_counts(probability: np.ndarray, boundary: np.ndarray, limit: float) -> np.ndarray:
    """Matched, predicted and true pixels of each threshold, by scikit-image and an assignment."""
    ridges, true = suppress_non_maxima(probability), np.argwhere(thin(boundary))
    counts = []
    for threshold in [0.001, *(step / 100 for step in range(1, 100)), 0.999]:
        found = np.argwhere(thin(ridges > threshold))
        distance = cdist(found, true)
        cost = np.where(distance <= limit, distance, 100 * limit)
        pairs = linear_sum_assignment(cost)
        counts.append(((distance[pairs] <= limit).sum(), len(found), len(true)))
    return np.array(counts)


@pytest.mark.parametrize("nms", [True, False])
def test_a_perfect_prediction_scores_one(nms: bool) -> None:
    scores = scores_of((circle(), circle()), nms=nms)
    assert (scores["ods_f"], scores["ois_f"], scores["ap"]) == (1.0, 1.0, 1.0)


def test_a_thick_boundary_around_the_true_one_scores_one_once_it_is_thinned() -> None:
    rows, columns = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    thick = np.abs(np.hypot(rows - 18, columns - 22) - 12.0) < 2
    target = torch.from_numpy(thick).float()[None, None]
    assert scores_of((target, target), nms=False)["ods_f"] == 1.0


@pytest.mark.parametrize(("shift_px", "f"), [(0, 1.0), (1, 1.0), (2, 0.0)])
def test_a_shifted_line_matches_within_the_tolerance_only(shift_px: int, f: float) -> None:
    target, found = torch.zeros(2, 1, 1, 30, 40).unbind(0)
    target[..., 10, 8:32], found[..., 10 + shift_px, 8:32] = 1.0, 1.0
    assert scores_of((found, target), tolerance=0.03)["ods_f"] == pytest.approx(f)


def test_half_the_boundary_and_as_many_false_pixels_have_the_f_of_the_closed_form() -> None:
    target, found = torch.zeros(2, 1, 1, 40, 40).unbind(0)
    target[..., 10, 8:28] = 1.0
    found[..., 10, 8:18] = 0.6
    found[..., 30, 8:23] = 0.3
    scores = scores_of((found, target), nms=False)
    assert scores["ods_f"] == pytest.approx(2 * 1.0 * 0.5 / 1.5)
    # Both lines are predicted up to 0.3: P = 10 / 25, R = 1 / 2; the first alone up to 0.6.
    assert 0.3 <= scores["ods_threshold"] < 0.6
    assert scores["ap"] == pytest.approx(0.5)


def test_one_true_pixel_does_not_count_for_two_lines() -> None:
    target, found = torch.zeros(2, 1, 1, 40, 40).unbind(0)
    target[..., 20, 8:28] = 1.0
    found[..., 18, 8:28], found[..., 22, 8:28] = 1.0, 1.0
    scores = scores_of((found, target), tolerance=0.05, nms=False)
    assert scores["ods_f"] == pytest.approx(2 * 20 / (40 + 20))


@pytest.mark.parametrize(("seed", "tolerance"), [(0, 0.0075), (1, 0.03), (2, 0.06)])
def test_all_counts_agree_with_the_definition(seed: int, tolerance: float) -> None:
    target = circle()
    probability = noisy(target, seed).double().numpy()[0, 0]
    limit = tolerance * math.hypot(*SHAPE)
    boundary = target.numpy()[0, 0] > 0.5
    matched, predicted, true = match_boundaries(
        probability, boundary, thresholds=boundary_thresholds(101), max_distance_px=limit
    )
    wanted = slow_counts(probability, boundary, limit)
    np.testing.assert_array_equal(matched, wanted[:, 0])
    np.testing.assert_array_equal(predicted, wanted[:, 1])
    assert true == wanted[0, 2]


def test_the_thresholds_are_the_published_ones() -> None:
    thresholds = boundary_thresholds(101)
    np.testing.assert_allclose(thresholds, [0.001, *(k / 100 for k in range(1, 100)), 0.999])


def test_counts_are_summed_before_f_is_taken() -> None:
    easy, hard = (circle(6), circle(6)), (noisy(circle(14), 3), circle(14))
    together = scores_of(easy, hard)["ods_f"]
    apart = (scores_of(easy)["ods_f"] + scores_of(hard)["ods_f"]) / 2
    assert together != pytest.approx(apart, abs=0.01)
    assert together < apart


def test_the_best_threshold_of_each_image_is_at_least_as_good_as_a_shared_one() -> None:
    pairs = [(noisy(circle(r), r) * strength, circle(r)) for r, strength in ((8, 0.3), (13, 1.0))]
    scores = scores_of(*pairs, tolerance=0.03)
    assert scores["ois_f"] > scores["ods_f"]
    assert 0 < scores["ap"] <= 1


def test_workers_add_up_to_the_whole() -> None:
    pairs = [(noisy(circle(r), r), circle(r)) for r in (6, 9, 12)]
    parts = [BoundaryMetrics(), BoundaryMetrics()]
    for i, (prediction, target) in enumerate(pairs):
        parts[i % 2].update(prediction, target)
    parts[0].merge(parts[1])
    whole = BoundaryMetrics()
    whole.update(torch.cat([found for found, _ in pairs]), torch.cat([true for _, true in pairs]))
    assert parts[0].compute() == whole.compute()
    with pytest.raises(ValueError, match="same options"):
        whole.merge(BoundaryMetrics(num_thresholds=9))


def test_ignored_pixels_neither_reward_nor_punish() -> None:
    target, found = circle(), circle()
    found[..., :8] = 1.0
    target[..., :8] = -1.0
    assert scores_of((found, target), nms=False)["ods_f"] == 1.0


def test_a_smaller_prediction_is_brought_to_the_size_of_the_labels() -> None:
    small = torch.zeros(1, 1, 20, 20)
    small[..., 10, :] = 1.0
    target = torch.zeros(1, 1, 39, 39)
    target[..., 20, :] = 1.0
    assert scores_of((small, target))["ods_f"] > 0.95


def test_a_data_set_without_boundaries_has_no_score() -> None:
    nothing = torch.zeros(1, 1, 8, 8)
    assert all(math.isnan(value) for value in scores_of((nothing, nothing)).values())
    assert scores_of((torch.zeros(1, 1, *SHAPE), circle()))["ods_f"] == 0.0


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(NotFiniteError, match="1584 of 1584"):
        scores_of((circle() * math.nan, circle()))
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], found 0 to 3"):
        scores_of((circle() * 3, circle()))


def test_average_precision_is_the_area_below_a_known_curve() -> None:
    matched, predicted = np.array([10, 5, 0]), np.array([20, 5, 0])
    # Precision 1 up to recall 0.5, then straight down to 0.5 at recall 1.
    assert average_precision(matched, predicted, 10) == pytest.approx(0.5 + 0.5 * 0.75)


def test_a_pixel_at_the_threshold_is_not_predicted() -> None:
    boundary = circle().numpy()[0, 0] > 0.5
    _, predicted, true = match_boundaries(
        0.5 * boundary, boundary, thresholds=np.array([0.4, 0.5]), max_distance_px=1.0, nms=False
    )
    assert predicted.tolist() == [true, 0]
