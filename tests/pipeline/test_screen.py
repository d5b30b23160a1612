"""Every dropped sample has a reason."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.make.screen import image_reason, label_reason, mean_reliability
from schemas.config_labelling import ScreeningSection
from schemas.sample import TASKS
from tests.kit.random_labels import random_label, random_sample

LIMITS = ScreeningSection(min_pixel_std=8.0, max_expected_error_deg=30.0, min_confidence=0.4)


def normals(value=0.0):
    labels = np.zeros((4, 4, 3), dtype=np.float32)
    labels[..., 2] = 1
    labels[0, 0, 0] = value
    return {"normals": labels}


def sure(task, value):
    return {task: np.full((4, 4), value, dtype=np.float32)}


def test_an_image_of_one_colour_is_degenerate():
    assert image_reason(np.full((4, 4, 3), 90, dtype=np.uint8), LIMITS) == "degenerate_image"


def test_an_image_with_contrast_is_kept():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:2] = 200
    assert image_reason(image, LIMITS) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_not_finite_are_dropped(value):
    assert label_reason(normals(value), sure("normals", 1.0), LIMITS) == "not_finite"
    assert label_reason(normals(), sure("normals", value), LIMITS) == "not_finite"


def test_normals_with_a_great_expected_error_are_dropped():
    assert label_reason(normals(), sure("normals", 31.0), LIMITS) == "uncertain_normals"
    assert label_reason(normals(), sure("normals", 29.0), LIMITS) is None


@pytest.mark.parametrize("task", TASKS[1:])
def test_labels_of_little_confidence_are_dropped(task):
    labels = {task: np.ones((4, 4), dtype=np.float32)}
    assert label_reason(labels, sure(task, 0.3), LIMITS) == f"uncertain_{task}"
    assert label_reason(labels, sure(task, 0.5), LIMITS) is None


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_without_a_labelled_pixel_is_dropped(task):
    labels = {task: random_label(task, (4, 4), invalid=1.1)}
    assert label_reason(labels, sure(task, 1.0), LIMITS) == f"unlabelled_{task}"
    labels[task][0] = 1
    assert label_reason(labels, sure(task, 1.0), LIMITS) is None


def test_an_image_without_anything_salient_is_labelled():
    labels = {"saliency": np.zeros((4, 4), np.float32)}
    assert label_reason(labels, sure("saliency", 1.0), LIMITS) is None


def test_every_task_has_a_mean_confidence():
    reliability = random_sample(0).reliability
    means = mean_reliability(reliability)
    assert list(means) == list(TASKS)
    for task, mean in means.items():
        assert mean == pytest.approx(float(reliability[task].mean()))


def test_labels_that_the_creators_map_contradicts_are_dropped():
    limits = ScreeningSection(min_agreement=0.5)
    labels, reliability = normals(), sure("normals", 1.0)
    for share, reason in ((0.49, "disagreeing_normals"), (0.5, None)):
        found = label_reason(labels, reliability, limits, agreement={"normals": share})
        assert found == reason
    assert label_reason(labels, reliability, limits) is None, "nothing to compare with"
