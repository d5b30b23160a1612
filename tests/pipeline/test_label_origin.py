"""Where an image's labels come from, decided from what is known of them."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from pipeline.make.origin import Opinions, choose_labels
from schemas.errors import SampleError
from schemas.sample import INVALID_VALUES, TASK_KINDS, LabelOrigin, Task
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
