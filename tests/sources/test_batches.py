"""Collating samples into tensors, and mirroring them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from schemas.sample import IGNORE_ID, TASKS, Sample
from sources.batches import REAL_VERSION, collate, hflip_sample


def random_sample(seed: int, *, size: tuple[int, int] = (6, 8)) -> Sample:
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(*size, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[0, 0] = 0
    depth = rng.uniform(0.5, 9, size).astype(np.float32)
    depth[1, 2] = 0
    semseg = rng.integers(0, 20, size).astype(np.uint8)
    semseg[2, 3] = IGNORE_ID
    return Sample(
        key=f"s{seed}",
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        labels={"normals": normals, "depth": depth, "semseg": semseg},
        confidence={"normals": rng.uniform(0, 30, size).astype(np.float32)},
    )


def test_a_batch_has_the_promised_shapes_types_and_ranges():
    batch = collate([random_sample(0), random_sample(1)], TASKS, versions=[REAL_VERSION, 3])
    assert batch.images.shape == (2, 3, 6, 8)
    assert batch.images.dtype == torch.float32
    assert -1 <= batch.images.min() < batch.images.max() <= 1
    assert batch.labels["normals"].shape == (2, 3, 6, 8)
    assert batch.labels["depth"].shape == (2, 1, 6, 8)
    assert batch.labels["semseg"].shape == (2, 6, 8)
    assert batch.labels["normals"].dtype == batch.labels["depth"].dtype == torch.float32
    assert batch.labels["semseg"].dtype == torch.int64
    assert batch.keys == ("s0", "s1")
    assert batch.versions.tolist() == [-1, 3]
    assert batch.is_synthetic.tolist() == [False, False]
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
    assert not batch.labels["normals"][1].any()
    assert not batch.labels["depth"][1].any()
    assert (batch.labels["semseg"][1] == IGNORE_ID).all()


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
    np.testing.assert_array_equal(mirrored.labels["depth"][:, ::-1], sample.labels["depth"])


def test_mirroring_twice_gives_the_sample_back():
    sample = random_sample(1)
    twice = hflip_sample(hflip_sample(sample))
    np.testing.assert_array_equal(twice.image, sample.image)
    for task, label in sample.labels.items():
        np.testing.assert_array_equal(twice.labels[task], label)
    np.testing.assert_array_equal(twice.confidence["normals"], sample.confidence["normals"])


def test_mirroring_keeps_invalid_pixels_invalid_and_leaves_its_input_alone():
    sample = random_sample(2)
    untouched = sample.labels["normals"].copy()
    mirrored = hflip_sample(sample)
    assert not mirrored.labels["normals"][0, -1].any()
    assert mirrored.labels["depth"][1, -3] == 0
    assert mirrored.labels["semseg"][2, -4] == IGNORE_ID
    np.testing.assert_array_equal(sample.labels["normals"], untouched)
