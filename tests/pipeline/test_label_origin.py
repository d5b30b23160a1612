"""Where an image's labels come from, decided from what is known of them."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from pipeline.make.origin import Opinions, agree_within, choose_labels
from schemas.config_labelling import LabellingSection
from schemas.errors import SampleError
from schemas.sample import (
    IGNORE_ID,
    INVALID_VALUES,
    TASK_KINDS,
    TASKS,
    LabelOrigin,
    Task,
)
from tests.kit.random_labels import is_invalid, random_label

PREDICTED = {task: random_label(task, seed=1) for task in ("normals", "depth", "semseg")}
RELIABILITY = {task: np.ones((6, 8), np.float32) for task in PREDICTED}
MADE = {task: random_label(task, seed=2) for task in ("normals", "depth")}
GIVEN = {"normals": random_label("normals", seed=3, invalid=0.0)}
ALL = Opinions(predicted=PREDICTED, reliability=RELIABILITY, made=MADE, given=GIVEN)
EVERY_ORIGIN = pytest.mark.parametrize("origin", get_args(LabelOrigin))


def agree_on_the_left(task: Task, label: np.ndarray, other: np.ndarray):
    """Says that both agree in the first column alone."""
    assert other.shape == label.shape
    kept = label.copy()
    kept[:, 1:] = INVALID_VALUES[TASK_KINDS[task]]
    return kept, 1 / label.shape[1]


def expect_labels(found, wanted):
    assert found.keys() == wanted.keys()
    for task, label in wanted.items():
        np.testing.assert_array_equal(found[task], label)


@pytest.mark.parametrize(
    ("origin", "changed"), [("creation", {}), ("creator", MADE), ("given", GIVEN)]
)
def test_labels_are_those_of_the_origin_and_predicted_where_it_has_none(origin, changed):
    found = choose_labels(origin, ALL)
    expect_labels(found.labels, {**PREDICTED, **changed})
    assert found.reliability.keys() == PREDICTED.keys() - changed.keys()


def test_agreed_labels_are_predicted_ones_without_the_pixels_in_dispute():
    found = choose_labels("agreed", ALL, agree=agree_on_the_left)
    for task in MADE:
        label = found.labels[task]
        np.testing.assert_array_equal(label[:, 0], PREDICTED[task][:, 0])
        assert is_invalid(label, task)[:, 1:].all()
    np.testing.assert_array_equal(found.labels["semseg"], PREDICTED["semseg"])
    assert found.reliability.keys() == PREDICTED.keys(), "they are still the creation weights'"


@EVERY_ORIGIN
def test_agreement_is_measured_whatever_the_origin(origin):
    found = choose_labels(origin, ALL, agree=agree_on_the_left)
    assert found.agreement == {"normals": 1 / 8, "depth": 1 / 8}


@EVERY_ORIGIN
def test_what_is_known_is_not_changed(origin):
    before = {task: label.copy() for task, label in PREDICTED.items()}
    choose_labels(origin, ALL, agree=agree_on_the_left)
    expect_labels(PREDICTED, before)


@EVERY_ORIGIN
def test_an_origin_that_knows_nothing_costs_the_sample(origin):
    with pytest.raises(SampleError, match=f"origin {origin}, found none") as caught:
        choose_labels(origin, Opinions(), agree=agree_on_the_left)
    assert caught.value.reason == "labels_missing"


def test_maps_alone_are_labels_where_nothing_is_predicted():
    found = choose_labels("creator", Opinions(made=MADE))
    expect_labels(found.labels, MADE)
    assert found.reliability == {}


def test_agreed_labels_need_something_that_compares():
    with pytest.raises(ValueError, match="wanted what compares them"):
        choose_labels("agreed", ALL)


def test_labels_agree_within_the_thresholds_of_the_configuration():
    agree = agree_within(LabellingSection(max_disagreement_deg=10.0))
    angles = np.radians(np.array([[0.0, 9.5, 10.5, 90.0]], np.float32))
    turned = np.stack([np.sin(angles), np.zeros_like(angles), np.cos(angles)], axis=-1)
    ahead = np.zeros_like(turned)
    ahead[..., 2] = 1
    cases: dict[Task, tuple] = {
        "normals": (ahead, turned, [1, 1, 0, 0]),
        "depth": (
            np.array([[2.0, 2.0, 2.0, 0.0]], np.float32),
            np.array([[2.0, 2.49, 2.51, 2.0]], np.float32),
            [1, 1, 0, 0],
        ),
        "semseg": (
            np.array([[1, 2, 3, IGNORE_ID]], np.uint8),
            np.array([[1, 2, 4, IGNORE_ID]], np.uint8),
            [1, 1, 0, 0],
        ),
        "saliency": (
            np.array([[0.5, 0.5, 0.5, -1.0]], np.float32),
            np.array([[0.5, 0.26, 0.24, 0.5]], np.float32),
            [1, 1, 0, 0],
        ),
    }
    for task, (label, other, agreeing) in cases.items():
        kept, share = agree(task, label, other)
        wanted = np.array([agreeing], bool)
        assert share == 0.5, task
        assert kept.dtype == label.dtype
        np.testing.assert_array_equal(kept[wanted], label[wanted])
        assert is_invalid(kept, task)[~wanted].all()


@pytest.mark.parametrize("task", TASKS)
def test_a_label_agrees_with_itself_wherever_it_is_valid(task):
    label = random_label(task, seed=4)
    kept, share = agree_within(LabellingSection())(task, label, label.copy())
    np.testing.assert_array_equal(kept, label)
    assert share == pytest.approx(1 - is_invalid(label, task).mean())
