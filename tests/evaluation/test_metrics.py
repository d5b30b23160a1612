"""Metric families: perfect predictions, closed forms, pooling, independent implementations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from evaluation.depth import DepthMetrics
from evaluation.normals import NormalsMetrics, angular_error_deg
from evaluation.scores import ScoreBoard, multi_task_gain_pct, score
from evaluation.segmentation import SegmentationMetrics
from schemas.config_metrics import MetricsSection
from schemas.errors import NotFiniteError
from schemas.sample import Task


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=1)


def some_batch(batch: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    semseg = torch.randint(0, 4, (batch, 8, 8), generator=generator)
    semseg[0, :2] = 255
    depth = 1 + 3 * torch.rand(batch, 1, 8, 8, generator=generator)
    depth[0, :, :2] = 0
    normals = unit(batch, 3, 8, 8, seed=seed)
    normals[0, :, :2] = 0
    return {"normals": normals, "depth": depth, "semseg": semseg}


def guess(batch: int = 3, seed: int = 5):
    found = some_batch(batch, seed)
    found["normals"][0] = unit(1, 3, 8, 8, seed=9)
    found["depth"] = found["depth"].clamp_min(0.5)
    found["semseg"] = found["semseg"].clamp_max(3)
    return found


def test_a_perfect_prediction_has_no_error() -> None:
    labels = some_batch()
    scores = score(labels | {"semseg": labels["semseg"].clamp_max(3)}, labels, num_classes=4)
    assert scores["normals"] == {
        "mean_deg": 0.0,
        "median_deg": 0.0,
        "rmse_deg": 0.0,
        "pct_5": 100.0,
        "pct_7_5": 100.0,
        "pct_11_25": 100.0,
        "pct_22_5": 100.0,
        "pct_30": 100.0,
    }
    assert all(scores["depth"][name] == 0 for name in ("rmse_m", "rmse_log", "abs_rel", "sq_rel"))
    assert scores["depth"]["delta_1"] == 1.0
    assert scores["semseg"] == {"miou": 1.0, "mean_accuracy": 1.0, "pixel_accuracy": 1.0}


@pytest.mark.parametrize("angle_deg", [0.0, 1e-4, 12.0, 90.0, 179.9999, 180.0])
def test_a_known_rotation_is_measured_exactly(angle_deg: float) -> None:
    angle = math.radians(angle_deg)
    target = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    found = torch.tensor([math.sin(angle), 0.0, math.cos(angle)], dtype=torch.float64)
    error_deg = angular_error_deg(7 * found.view(1, 3, 1, 1), target).item()
    assert error_deg == pytest.approx(angle_deg, abs=1e-9)


def test_normals_agree_with_the_pooled_errors_themselves() -> None:
    labels, found = some_batch()["normals"], guess()["normals"]
    metrics = NormalsMetrics()
    metrics.update(found, labels)
    scores = metrics.compute()
    cosine = (labels.double() * found.double()).sum(dim=1).clamp(-1, 1)
    errors = torch.rad2deg(torch.acos(cosine))[labels.abs().sum(dim=1) > 0]
    assert len(errors) == 3 * 64 - 16
    assert scores["mean_deg"] == pytest.approx(errors.mean().item(), abs=1e-4)
    assert scores["rmse_deg"] == pytest.approx((errors**2).mean().sqrt().item(), abs=1e-4)
    assert scores["median_deg"] == pytest.approx(errors.median().item(), abs=0.006)
    assert scores["pct_30"] == pytest.approx(100 * (errors < 30).double().mean().item())


def test_a_flip_that_negates_x_leaves_the_normals_scores_alone() -> None:
    labels, found = some_batch()["normals"], guess()["normals"]
    mirror = torch.tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)
    straight, flipped = NormalsMetrics(), NormalsMetrics()
    straight.update(found, labels)
    flipped.update(found.flip(-1) * mirror, labels.flip(-1) * mirror)
    assert straight.compute() == pytest.approx(flipped.compute())


def test_depth_agrees_with_torchmetrics() -> None:
    labels, found = some_batch()["depth"], guess()["depth"]
    valid = labels > 0
    scores = score({"depth": found}, {"depth": labels})["depth"]
    rmse, rmse_log = MeanSquaredError(squared=False), MeanSquaredError(squared=False)
    wanted = {
        "rmse_m": rmse(found[valid], labels[valid]),
        "rmse_log": rmse_log(found[valid].log(), labels[valid].log()),
        "abs_err_m": MeanAbsoluteError()(found[valid], labels[valid]),
    }
    for name, value in wanted.items():
        assert scores[name] == pytest.approx(value.item(), rel=1e-5)


def test_a_constant_depth_factor_has_known_relative_errors() -> None:
    labels = some_batch()["depth"]
    scores = score({"depth": 1.5 * labels}, {"depth": labels})["depth"]
    assert scores["abs_rel"] == pytest.approx(0.5)
    assert scores["rmse_log"] == pytest.approx(math.log(1.5), rel=1e-6)
    assert scores["sq_rel"] == pytest.approx(0.25 * labels[labels > 0].mean().item(), rel=1e-6)
    assert (scores["delta_1"], scores["delta_2"], scores["delta_3"]) == (0.0, 1.0, 1.0)


def test_depth_outside_the_range_is_not_counted() -> None:
    target = torch.tensor([0.0, 0.5, 2.0, 100.0]).view(1, 1, 2, 2)
    found = torch.tensor([1.0, 9.0, 3.0, 1.0]).view(1, 1, 2, 2)
    metrics = DepthMetrics(min_depth_m=1.0, max_depth_m=80.0)
    metrics.update(found, target)
    assert metrics.compute()["rmse_m"] == 1.0


def test_segmentation_agrees_with_torchmetrics_when_a_class_is_absent() -> None:
    labels, found = some_batch()["semseg"], guess()["semseg"]
    scores = score({"semseg": found}, {"semseg": labels}, num_classes=6)["semseg"]
    jaccard = MulticlassJaccardIndex(num_classes=6, ignore_index=255)
    accuracy = MulticlassAccuracy(num_classes=6, ignore_index=255, average="micro")
    assert scores["miou"] == pytest.approx(jaccard(found, labels).item())
    assert scores["pixel_accuracy"] == pytest.approx(accuracy(found, labels).item())


def test_a_class_id_out_of_range_is_refused() -> None:
    metrics = SegmentationMetrics(3)
    with pytest.raises(ValueError, match="target: wanted class ids 0 to 2"):
        metrics.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 3))


def test_batches_and_workers_give_the_scores_of_the_whole() -> None:
    labels, found = some_batch(), guess()
    whole = score(found, labels, num_classes=4)
    boards = [ScoreBoard(tuple(labels), num_classes=4) for _ in range(2)]
    for i in range(3):
        one = slice(i, i + 1)
        boards[i % 2].update(
            {task: value[one] for task, value in found.items()},
            {task: value[one] for task, value in labels.items()},
        )
    boards[0].merge(boards[1])
    for task, scores in boards[0].compute().items():
        assert scores == pytest.approx(whole[task])


def test_pooling_over_the_data_set_is_not_the_mean_over_images() -> None:
    target = torch.ones(2, 1, 2, 2)
    target[1, :, :, 1] = 0
    found = target.clone()
    found[1] += 2
    pooled = score({"depth": found}, {"depth": target})["depth"]["rmse_m"]
    each = [
        score({"depth": found[i : i + 1]}, {"depth": target[i : i + 1]})["depth"]["rmse_m"]
        for i in range(2)
    ]
    assert pooled == pytest.approx(math.sqrt(2 * 4 / 6))
    assert sum(each) / 2 == pytest.approx(1.0)


def test_a_smaller_prediction_is_brought_to_the_size_of_the_labels() -> None:
    labels = {
        "normals": unit(1, 3, 1, 1).expand(-1, -1, 8, 8),
        "depth": torch.full((1, 1, 8, 8), 2.0),
        "semseg": torch.ones(1, 8, 8, dtype=torch.long),
    }
    small = {
        "normals": labels["normals"][..., ::2, ::2],
        "depth": labels["depth"][..., ::2, ::2],
        "semseg": labels["semseg"][..., ::2, ::2],
    }
    scores = score(small, labels, num_classes=2)
    assert scores["normals"]["mean_deg"] == pytest.approx(0.0, abs=1e-4)
    assert scores["depth"]["rmse_m"] == pytest.approx(0.0, abs=1e-6)
    assert scores["semseg"]["miou"] == 1.0


def test_nothing_counted_is_not_a_number_instead_of_a_perfect_score() -> None:
    labels = {
        "normals": torch.zeros(1, 3, 4, 4),
        "depth": torch.zeros(1, 1, 4, 4),
        "semseg": torch.full((1, 4, 4), 255),
    }
    found = {
        "normals": unit(1, 3, 4, 4),
        "depth": torch.ones(1, 1, 4, 4),
        "semseg": torch.zeros(1, 4, 4, dtype=torch.long),
    }
    for scores in score(found, labels, num_classes=3).values():
        assert all(math.isnan(value) for value in scores.values())


@pytest.mark.parametrize("task", ["normals", "depth"])
def test_a_prediction_that_is_not_finite_is_refused(task: str) -> None:
    labels = some_batch()
    found = labels[task].clone()
    found[0, 0, 5, 5] = float("nan")
    with pytest.raises(NotFiniteError, match="1 of"):
        score({task: found}, labels)


def test_boards_of_other_tasks_or_classes_do_not_merge() -> None:
    with pytest.raises(ValueError, match="same tasks"):
        ScoreBoard(("normals",)).merge(ScoreBoard(("depth",)))
    with pytest.raises(ValueError, match="same options"):
        SegmentationMetrics(3).merge(SegmentationMetrics(4))
    with pytest.raises(ValueError, match="num_classes"):
        ScoreBoard(("semseg",))


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("depth", MetricsSection(depth_max_m=80.0)),
        ("depth", MetricsSection(depth_protocol="per_image")),
        ("semseg", MetricsSection(absent_classes="zero")),
        ("saliency", MetricsSection(saliency_double_sigmoid=True)),
        ("saliency", MetricsSection(saliency_protocol="per_image_f1")),
        ("boundaries", MetricsSection(boundary_thresholds=9)),
        ("boundaries", MetricsSection(boundary_tolerance=0.011)),
        ("boundaries", MetricsSection(boundary_nms=False)),
    ],
)
def test_boards_of_other_options_do_not_merge(task: Task, options: MetricsSection) -> None:
    board = ScoreBoard((task,), num_classes=3)
    with pytest.raises(ValueError, match="same options"):
        board.merge(ScoreBoard((task,), num_classes=3, options=options))
    board.merge(ScoreBoard((task,), num_classes=3))


def test_the_gain_is_zero_against_itself_and_positive_when_an_error_falls() -> None:
    baseline = {"normals": {"mean_deg": 20.0}, "semseg": {"miou": 0.5}}
    better = {"normals": {"mean_deg": 18.0}, "semseg": {"miou": 0.55}}
    assert multi_task_gain_pct(baseline, baseline) == 0.0
    assert multi_task_gain_pct(better, baseline) == pytest.approx(10.0)
