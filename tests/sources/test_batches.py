"""Collating samples into tensors, and mirroring them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from schemas.sample import INVALID_VALUES, TASK_KINDS, TASKS, Sample
from sources.batches import REAL_VERSION, collate, hflip_sample, pixel_weight
from tests.kit.random_labels import is_invalid, random_sample


def test_a_batch_has_the_promised_shapes_types_and_ranges():
    batch = collate([random_sample(0), random_sample(1)], TASKS, versions=[REAL_VERSION, 3])
    assert batch.images.shape == (2, 3, 6, 8)
    assert batch.images.dtype == torch.float32
    assert -1 <= batch.images.min() < batch.images.max() <= 1
    shapes = {
        "direction": ((2, 3, 6, 8), torch.float32),
        "distance": ((2, 1, 6, 8), torch.float32),
        "classes": ((2, 6, 8), torch.int64),
        "probability": ((2, 1, 6, 8), torch.float32),
    }
    for task, label in batch.labels.items():
        assert (label.shape, label.dtype) == shapes[TASK_KINDS[task]]
    assert batch.keys == ("s0", "s1")
    assert batch.versions.tolist() == [-1, 3]
    assert batch.is_synthetic.tolist() == [True, True]
    assert len(batch.to("cpu")) == 2


def test_black_is_minus_one_and_white_is_one():
    black = Sample(key="b", image=np.zeros((2, 2, 3), np.uint8), labels={})
    white = Sample(key="w", image=np.full((2, 2, 3), 255, np.uint8), labels={})
    images = collate([black, white], ()).images
    assert images[0].unique().tolist() == [-1]
    assert images[1].unique().tolist() == [1]


def test_a_missing_label_is_invalid_everywhere():
    bare = Sample(key="bare", image=np.zeros((6, 8, 3), np.uint8), labels={})
    batch = collate([random_sample(0), bare], TASKS)
    for task in TASKS:
        assert (batch.labels[task][1] == INVALID_VALUES[TASK_KINDS[task]]).all()


def test_confidence_weighs_the_pixels_of_synthetic_samples_and_of_no_real_one():
    reliability = {
        "normals": np.full((6, 8), 60.0, np.float32),
        "depth": np.full((6, 8), 0.25, np.float32),
    }
    made = replace(random_sample(0), reliability=reliability, is_synthetic=True)
    real = replace(random_sample(1), reliability=reliability, is_synthetic=False)
    weights = collate([made, real], TASKS, pixel_weights="confidence").weights
    assert set(weights) == {"normals", "depth"}
    assert all(weight.shape == (2, 1, 6, 8) for weight in weights.values())
    torch.testing.assert_close(weights["normals"][0], torch.full((1, 6, 8), 0.5))
    assert (weights["depth"][0] == 0.25).all()
    assert all((weight[1] == 1).all() for weight in weights.values())
    assert collate([made, real], TASKS).weights == {}


def test_normals_weigh_less_the_greater_their_expected_error():
    error_deg = np.array([[0.0, 30.0, 60.0, 90.0, 180.0]], np.float32)
    found = pixel_weight(error_deg, "normals")
    np.testing.assert_allclose(found, [[1, 3**0.5 / 2, 0.5, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(pixel_weight(error_deg / 180, "depth"), error_deg / 180)


def test_samples_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="one size"):
        collate([random_sample(0), random_sample(1, size=(4, 4))], TASKS)


def test_mirroring_negates_the_x_of_normals_and_nothing_else():
    sample = random_sample(0)
    mirrored = hflip_sample(sample)
    before, after = sample.labels["normals"], mirrored.labels["normals"][:, ::-1]
    np.testing.assert_array_equal(after[..., 0], -before[..., 0])
    np.testing.assert_array_equal(after[..., 1:], before[..., 1:])
    np.testing.assert_array_equal(mirrored.image[:, ::-1], sample.image)
    for task in TASKS[1:]:
        np.testing.assert_array_equal(mirrored.labels[task][:, ::-1], sample.labels[task])


def test_mirroring_twice_gives_the_sample_back():
    sample = random_sample(1)
    twice = hflip_sample(hflip_sample(sample))
    np.testing.assert_array_equal(twice.image, sample.image)
    for task in TASKS:
        np.testing.assert_array_equal(twice.labels[task], sample.labels[task])
        np.testing.assert_array_equal(twice.reliability[task], sample.reliability[task])


@pytest.mark.parametrize("task", TASKS)
def test_mirroring_keeps_invalid_pixels_invalid_and_leaves_its_input_alone(task):
    sample = random_sample(2)
    untouched = sample.labels[task].copy()
    mirrored = hflip_sample(sample)
    before = is_invalid(sample.labels[task], task)
    assert before.any()
    np.testing.assert_array_equal(is_invalid(mirrored.labels[task], task), before[:, ::-1])
    np.testing.assert_array_equal(sample.labels[task], untouched)
