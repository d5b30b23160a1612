"""Options that reproduce published protocols, the board of all six tasks, and the joint gain."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from evaluation.depth import (
    DepthMetrics,
    PerImageDepthMetrics,
    eigen_crop,
    make_depth_metrics,
)
from evaluation.normals import NormalsMetrics
from evaluation.predict_source import Scoring
from evaluation.scores import HEADLINE_METRICS, ScoreBoard, multi_task_gain_pct, score
from evaluation.segmentation import SegmentationMetrics
from schemas.config_metrics import MetricsSection
from schemas.errors import NotFiniteError
from schemas.sample import TASKS


def depth_batch(seed: int = 0, size=(48, 64)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = 0.5 + 12 * torch.rand(2, 1, *size, generator=generator)
    target[0, :, :, ::3] = 0
    found = target * (0.7 + 0.6 * torch.rand(target.shape, generator=generator))
    return found, target


def six_tasks(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 4, (2, 16, 20), generator=generator)
    mask = torch.zeros(2, 1, 16, 20)
    mask[:, :, 5:11, 6:14] = 1.0
    line = torch.zeros(2, 1, 16, 20)
    line[:, :, 8, 6:14] = 1.0
    normals = torch.randn(2, 3, 16, 20, generator=generator)
    return {
        "normals": torch.nn.functional.normalize(normals, dim=1),
        "depth": 1 + torch.rand(2, 1, 16, 20, generator=generator),
        "semseg": ids,
        "human_parts": ids + 3,
        "saliency": mask,
        "boundaries": line,
    }


def worse(labels):
    return {
        "normals": labels["normals"].flip(-1),
        "depth": labels["depth"] + 0.3,
        "semseg": labels["semseg"].flip(-1),
        "human_parts": labels["human_parts"].flip(-1),
        "saliency": labels["saliency"].roll(3, -1),
        "boundaries": labels["boundaries"].roll(3, -1),
    }


def test_a_perfect_prediction_is_perfect_in_all_six_tasks() -> None:
    labels = six_tasks()
    scores = score(labels, labels, num_classes=4)
    wanted = {
        "normals": 0.0,
        "depth": 0.0,
        "semseg": 1.0,
        "human_parts": 1.0,
        "saliency": 1.0,
        "boundaries": 1.0,
    }
    assert {task: scores[task][HEADLINE_METRICS[task].name] for task in TASKS} == wanted


def test_every_headline_metric_gets_worse_with_the_prediction() -> None:
    labels = six_tasks()
    good, bad = score(labels, labels, num_classes=4), score(worse(labels), labels, num_classes=4)
    for task in TASKS:
        headline = HEADLINE_METRICS[task]
        change = bad[task][headline.name] - good[task][headline.name]
        assert (change > 0) == headline.lower_is_better, task


def test_boards_of_all_tasks_add_up_over_workers() -> None:
    labels, found = six_tasks(), worse(six_tasks())
    whole = score(found, labels, num_classes=4)
    boards = [ScoreBoard(TASKS, num_classes=4) for _ in range(2)]
    for i, board in enumerate(boards):
        one = slice(i, i + 1)
        board.update({t: v[one] for t, v in found.items()}, {t: v[one] for t, v in labels.items()})
    boards[0].merge(boards[1])
    for task, scores in boards[0].compute().items():
        assert scores == pytest.approx(whole[task])


def test_the_joint_gain_is_the_closed_form_over_tasks_of_both_directions() -> None:
    baseline = {
        "normals": {"mean_deg": 20.0},
        "depth": {"rmse_m": 0.5},
        "saliency": {"max_f": 0.8},
        "boundaries": {"ods_f": 0.6},
    }
    found = {
        "normals": {"mean_deg": 22.0},
        "depth": {"rmse_m": 0.4},
        "saliency": {"max_f": 0.84},
        "boundaries": {"ods_f": 0.57},
    }
    assert multi_task_gain_pct(found, baseline) == pytest.approx((-10 + 20 + 5 - 5) / 4)
    assert multi_task_gain_pct(baseline, baseline) == 0.0


def test_the_mean_normal_error_is_that_of_the_multi_task_protocol() -> None:
    labels, found = six_tasks()["normals"], worse(six_tasks())["normals"]
    metrics = NormalsMetrics()
    metrics.update(5 * found, labels)
    p, g = found.double().numpy(), labels.double().numpy()
    p, g = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (p, g))
    chord = 2 * np.arctan2(np.linalg.norm(p - g, axis=1), np.linalg.norm(p + g, axis=1))
    dot = np.arccos((p * g).sum(axis=1).clip(-1, 1))
    for angles in (chord, dot):
        assert metrics.compute()["mean_deg"] == pytest.approx(np.degrees(angles).mean())


def test_the_eigen_crop_is_the_published_one_and_scales() -> None:
    assert eigen_crop(480, 640) == (slice(45, 471), slice(41, 601))
    assert eigen_crop(240, 320) == (slice(22, 236), slice(20, 300))


def test_per_image_depth_agrees_with_plain_loops() -> None:
    found, target = depth_batch(size=(480, 640))
    metrics = PerImageDepthMetrics()
    metrics.update(found, target)
    each = {name: [] for name in metrics.compute()}
    inside = np.s_[:, 0, 45:471, 41:601]
    for image in zip(found.double().numpy()[inside], target.double().numpy()[inside], strict=True):
        valid = (image[1] > 1e-3) & (image[1] < 10)
        p, g = image[0][valid], image[1][valid]
        excess = np.maximum(p / g, g / p)
        each["rmse_m"].append(np.sqrt(((p - g) ** 2).mean()))
        each["rmse_log"].append(np.sqrt(((np.log(p) - np.log(g)) ** 2).mean()))
        each["abs_err_m"].append(np.abs(p - g).mean())
        each["abs_rel"].append((np.abs(p - g) / g).mean())
        each["sq_rel"].append(((p - g) ** 2 / g).mean())
        each["log10"].append(np.abs(np.log10(p) - np.log10(g)).mean())
        for power in (1, 2, 3):
            each[f"delta_{power}"].append((excess < 1.25**power).mean())
    assert metrics.compute() == pytest.approx({name: np.mean(v) for name, v in each.items()})


def test_pooled_and_per_image_depth_differ_on_two_images() -> None:
    target = torch.ones(2, 1, 20, 20)
    target[1, :, :, 5:] = 0
    found = target.clone()
    found[1] += 2
    pooled, per_image = DepthMetrics(), PerImageDepthMetrics()
    for metrics in (pooled, per_image):
        metrics.update(found, target)
    assert pooled.compute()["rmse_m"] == pytest.approx(math.sqrt(4 * 100 / 500))
    assert per_image.compute()["rmse_m"] == pytest.approx((0 + 2) / 2)


def test_per_image_depth_adds_up_over_workers_and_leaves_out_empty_images() -> None:
    found, target = depth_batch()
    parts = [PerImageDepthMetrics(), PerImageDepthMetrics()]
    whole = PerImageDepthMetrics()
    for i, part in enumerate(parts):
        part.update(found[i : i + 1], target[i : i + 1])
    parts[0].merge(parts[1])
    nothing = torch.zeros_like(target[:1])
    whole.update(torch.cat([found, found[:1]]), torch.cat([target, nothing]))
    assert parts[0].compute() == pytest.approx(whole.compute())


def test_depth_limits_replace_those_of_the_protocol() -> None:
    assert make_depth_metrics(max_depth_m=80.0).max_depth_m == 80.0
    limits = make_depth_metrics(protocol="per_image", max_depth_m=8.0)
    assert (limits.min_depth_m, limits.max_depth_m) == (1e-3, 8.0)
    assert isinstance(limits, PerImageDepthMetrics)


def test_a_depth_that_is_not_positive_counts_as_a_tiny_one() -> None:
    scores = score({"depth": torch.full((1, 1, 2, 2), -3.0)}, {"depth": torch.ones(1, 1, 2, 2)})
    assert scores["depth"]["rmse_m"] == pytest.approx(1.0)
    assert scores["depth"]["log10"] == pytest.approx(9.0)


def test_an_absent_class_counts_zero_where_published_figures_do_so() -> None:
    ids = torch.tensor([[[0, 0, 1, 255]]])
    found = torch.tensor([[[0, 1, 1, 3]]])
    left_out = SegmentationMetrics(4)
    zero = SegmentationMetrics(4, absent_classes="zero")
    for metrics in (left_out, zero):
        metrics.update(found, ids)
    assert left_out.compute()["miou"] == pytest.approx(0.5)
    assert zero.compute()["miou"] == pytest.approx(0.25)
    jaccard = MulticlassJaccardIndex(num_classes=4, ignore_index=255, average="none")
    assert zero.iou_per_class().tolist() == pytest.approx(jaccard(found, ids).tolist())


def test_human_parts_have_seven_classes_and_images_without_a_person_drop_out() -> None:
    labels = six_tasks()["human_parts"]
    found = labels.flip(-1)
    nobody = torch.full_like(labels, 255)
    once = score({"human_parts": found}, {"human_parts": labels})
    twice = score(
        {"human_parts": torch.cat([found, found])}, {"human_parts": torch.cat([labels, nobody])}
    )
    assert once == twice
    jaccard = MulticlassJaccardIndex(num_classes=7)(found, labels)
    assert once["human_parts"]["miou"] == pytest.approx(jaccard.item(), rel=1e-5)
    with pytest.raises(ValueError, match="ids 0 to 6"):
        score({"human_parts": found + 1}, {"human_parts": labels})


def test_ids_that_are_not_numbers_are_refused() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(NotFiniteError):
        score({"semseg": torch.full((1, 2, 2), math.nan)}, {"semseg": labels}, num_classes=3)


def test_options_reach_every_family() -> None:
    options = MetricsSection(
        depth_protocol="per_image",
        depth_max_m=5.0,
        absent_classes="zero",
        saliency_protocol="per_image_f1",
        saliency_double_sigmoid=True,
        boundary_thresholds=5,
        boundary_tolerance=0.011,
        boundary_nms=False,
    )
    metrics = Scoring(tasks=TASKS, num_classes=4, options=options).board().metrics
    assert metrics["depth"].max_depth_m == 5.0
    assert metrics["semseg"].absent_classes == metrics["human_parts"].absent_classes == "zero"
    assert metrics["saliency"].double_sigmoid
    assert len(metrics["saliency"].thresholds) == 15
    assert len(metrics["boundaries"].thresholds) == 5
    assert (metrics["boundaries"].tolerance, metrics["boundaries"].nms) == (0.011, False)
