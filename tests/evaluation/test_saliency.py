"""Saliency scores: toy cases, torchmetrics, plain loops, the published quirk."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryFBetaScore

from evaluation.saliency import (
    PER_IMAGE_THRESHOLDS,
    POOLED_THRESHOLDS,
    PerImageSaliency,
    PooledSaliency,
    make_saliency_metrics,
)
from schemas.errors import NotFiniteError

PROTOCOLS = (PooledSaliency, PerImageSaliency)


def batch(seed: int = 0, images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(images, 1, 9, 11, generator=generator) < 0.3).float()
    found = (0.5 * target + 0.7 * torch.rand(target.shape, generator=generator)).clamp_max(1)
    target[0, :, :3] = -1
    return found, target


def scores_of(metrics, found: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    metrics.update(found, target)
    return metrics.compute()


@pytest.mark.parametrize("make", PROTOCOLS)
def test_a_perfect_prediction_scores_one(make) -> None:
    _, target = batch()
    assert scores_of(make(), target.clamp_min(0), target) == {"max_f": 1.0, "mae": 0.0}


def test_a_known_confusion_has_the_f_of_the_closed_form() -> None:
    target = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 3)
    found = torch.tensor([0.9, 0.9, 0.9, 0.0, 0.9, 0.0]).view(1, 1, 2, 3)
    precision = recall = 3 / 4
    scores = scores_of(PooledSaliency(), found, target)
    # At every threshold the same pixels pass, and none is below all thresholds but with p = 0.
    assert scores["max_f"] == pytest.approx(1.3 * precision * recall / (0.3 * precision + recall))
    assert scores["mae"] == pytest.approx((3 * 0.1 + 1.0 + 0.9) / 6)


def test_pooled_f_agrees_with_torchmetrics_at_each_threshold() -> None:
    found, target = batch()
    valid = target >= 0
    scores = scores_of(PooledSaliency(), found, target)
    each = [
        BinaryFBetaScore(beta=math.sqrt(0.3), threshold=float(t))(
            found[valid], target[valid].long()
        ).item()
        for t in POOLED_THRESHOLDS
    ]
    assert len(each) == 19
    assert scores["max_f"] == pytest.approx(max(each), rel=1e-5)


def test_the_older_protocol_agrees_with_plain_loops() -> None:
    found, target = batch()
    mean_precision, mean_recall = np.zeros(15), np.zeros(15)
    for image, label in zip(found, target, strict=True):
        p, g = image[label >= 0].numpy(), label[label >= 0].numpy() == 1
        for i, threshold in enumerate(np.linspace(0.2, 0.9, 15)):
            passed = p >= threshold
            hits = (passed & g).sum()
            mean_precision[i] += hits / max(passed.sum(), 1) / 3
            mean_recall[i] += hits / max(g.sum(), 1) / 3
    f = 2 * mean_precision * mean_recall / (mean_precision + mean_recall)
    assert scores_of(PerImageSaliency(), found, target)["max_f"] == pytest.approx(f.max())
    np.testing.assert_allclose(PER_IMAGE_THRESHOLDS, np.linspace(0.2, 0.9, 15))


def test_a_value_at_a_threshold_passes_it() -> None:
    target = torch.ones(1, 1, 1, 19)
    found = torch.tensor(POOLED_THRESHOLDS).view(1, 1, 1, 19)
    metrics = PooledSaliency()
    metrics.update(found, target)
    assert metrics.sums["predicted"].tolist() == list(range(19, 0, -1))


@pytest.mark.parametrize(
    ("threshold", "probability"), [(0.55, 0.20), (0.60, 0.41), (0.65, 0.62), (0.70, 0.85)]
)
def test_a_second_sigmoid_moves_the_thresholds(threshold: float, probability: float) -> None:
    passed = []
    for p in (probability - 0.01, probability + 0.01):
        metrics = PooledSaliency(double_sigmoid=True)
        metrics.update(torch.full((1, 1, 1, 1), p), torch.ones(1, 1, 1, 1))
        passed.append(metrics.sums["predicted"][round(20 * threshold) - 1].item())
    assert passed == [0, 1]


def test_after_a_second_sigmoid_thresholds_up_to_a_half_take_everything_and_high_ones_nothing() -> (
    None
):
    found, target = batch()
    found[1] = 0.0
    metrics = PooledSaliency(double_sigmoid=True)
    metrics.update(found, target)
    count = (target >= 0).sum().item()
    assert metrics.sums["predicted"][:10].tolist() == [count] * 10
    assert metrics.sums["predicted"][14:].tolist() == [0] * 5
    assert metrics.compute() != scores_of(PooledSaliency(), found, target)


def test_pooling_is_not_the_mean_over_images() -> None:
    target = torch.zeros(2, 1, 10, 10)
    target[0, :, :5] = 1.0
    target[1, :, 0, 0] = 1.0
    found = 0.95 * target
    found[1, :, 1, :9] = 0.95
    pooled = scores_of(PooledSaliency(), found, target)["max_f"]
    apart = [
        scores_of(PooledSaliency(), found[i : i + 1], target[i : i + 1])["max_f"] for i in range(2)
    ]
    assert pooled == pytest.approx(1.3 * (51 / 60) / (0.3 * 51 / 60 + 1))
    assert sum(apart) / 2 == pytest.approx((1 + 1.3 * 0.1 / (0.03 + 1)) / 2)
    assert scores_of(PerImageSaliency(), found, target)["max_f"] == pytest.approx(2 * 0.55 / 1.55)


@pytest.mark.parametrize("make", PROTOCOLS)
def test_workers_add_up_to_the_whole(make) -> None:
    found, target = batch(images=5)
    parts = [make(), make()]
    for i in range(5):
        parts[i % 2].update(found[i : i + 1], target[i : i + 1])
    parts[0].merge(parts[1])
    assert parts[0].compute() == pytest.approx(scores_of(make(), found, target))


@pytest.mark.parametrize("protocol", ["pooled", "per_image_f1"])
def test_nothing_counted_has_no_score(protocol) -> None:
    metrics = make_saliency_metrics(protocol=protocol)
    scores = scores_of(metrics, torch.ones(1, 1, 4, 4), torch.full((1, 1, 4, 4), -1.0))
    assert all(math.isnan(value) for value in scores.values())


def test_what_is_no_probability_is_refused() -> None:
    found, target = batch()
    with pytest.raises(NotFiniteError):
        PooledSaliency().update(found / 0.0 * 0.0, target)
    with pytest.raises(ValueError, match="wanted probabilities"):
        PooledSaliency().update(found - 2, target)


def test_a_smaller_prediction_is_brought_to_the_size_of_the_labels() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., 4:] = 1.0
    assert scores_of(PooledSaliency(), target[..., ::2, 1::2], target)["max_f"] > 0.9
