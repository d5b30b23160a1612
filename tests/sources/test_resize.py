"""Cropping and resizing images and labels together."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import SampleError
from schemas.sample import INVALID_VALUES, TASK_KINDS, TASKS, Sample
from sources.resize import (
    PAD_RGB,
    center_crop,
    fit_sample,
    resize_image,
    resize_label,
    resize_nearest,
    resize_normals,
    resize_probability,
)
from tests.kit.layouts import nyu_files
from tests.kit.random_labels import is_invalid, random_label


def unit(*vector: float) -> np.ndarray:
    array = np.array(vector, np.float32)
    return array / np.linalg.norm(array)


def test_a_crop_keeps_the_middle_and_the_wanted_aspect():
    array = np.arange(10 * 20).reshape(10, 20)
    np.testing.assert_array_equal(center_crop(array, (64, 64)), array[:, 5:15])
    np.testing.assert_array_equal(center_crop(array, (20, 80)), array[2:7, :])
    np.testing.assert_array_equal(center_crop(array, (5, 10)), array)


def test_a_uniform_image_stays_uniform():
    image = np.full((21, 28, 3), 93, np.uint8)
    assert (resize_image(image, (6, 8)) == 93).all()


def test_nearest_takes_only_values_that_were_there():
    ids = np.array([[3, 7], [7, 200]], np.uint8)
    enlarged = resize_nearest(ids, (6, 6))
    np.testing.assert_array_equal(enlarged, np.kron(ids, np.ones((3, 3), np.uint8)))
    np.testing.assert_array_equal(resize_nearest(enlarged, (2, 2)), ids)


def test_a_plane_keeps_its_normal():
    normals = np.broadcast_to(unit(0.3, 0.5, 0.8), (30, 40, 3)).copy()
    small = resize_normals(normals, (7, 9))
    np.testing.assert_allclose(small, np.broadcast_to(unit(0.3, 0.5, 0.8), small.shape), atol=1e-6)


def test_resized_normals_are_unit_or_zero():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(32, 32, 3)).astype(np.float32)
    normals[..., 2] = np.abs(normals[..., 2])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[8:20, 8:20] = 0
    length = np.linalg.norm(resize_normals(normals, (8, 8)), axis=-1)
    assert set(np.unique(length.round(5))) == {0.0, 1.0}


def test_a_pixel_that_was_mostly_invalid_stays_invalid():
    normals = np.zeros((4, 4, 3), np.float32)
    normals[:2, :2] = unit(0, 0, 1)
    normals[0, 2] = unit(0, 1, 0)
    small = resize_normals(normals, (2, 2))
    np.testing.assert_array_equal(small[0, 0], unit(0, 0, 1))
    assert not small[0, 1].any()
    assert not small[1].any()


def test_invalid_pixels_do_not_turn_their_neighbours():
    normals = np.zeros((2, 2, 3), np.float32)
    normals[:, 0] = unit(1, 0, 1)
    normals[0, 1] = unit(1, 0, 1)
    np.testing.assert_allclose(resize_normals(normals, (1, 1))[0, 0], unit(1, 0, 1), atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_a_label_of_the_wanted_size_stays_as_it_is(task):
    label = random_label(task)
    np.testing.assert_array_equal(resize_label(label, (6, 8), task), label)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(3, 4), (5, 7), (12, 16), (9, 3)])
def test_every_label_keeps_type_range_and_invalid_value(task, size):
    label = resize_label(random_label(task, seed=3), size, task)
    assert label.shape[:2] == size
    assert label.dtype == random_label(task).dtype
    kind = TASK_KINDS[task]
    valid = label[~is_invalid(label, task)]
    if kind == "direction":
        np.testing.assert_allclose(np.linalg.norm(valid, axis=-1), 1, atol=1e-5)
    elif kind == "probability":
        assert ((valid >= 0) & (valid <= 1)).all()
    else:
        assert np.isin(valid, random_label(task, seed=3)).all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(3, 4), (5, 7), (12, 16)])
def test_a_block_without_labels_survives_and_labels_do_not_grow_into_it(task, size):
    label = random_label(task, invalid=0.0)
    label[:, :4] = INVALID_VALUES[TASK_KINDS[task]]
    resized = is_invalid(resize_label(label, size, task), task)
    middle = size[1] // 2
    assert resized[:, :middle].all()
    assert not resized[:, middle + 1 :].any()


def test_doubling_and_halving_gives_probabilities_back():
    label = random_label("saliency")
    for reduce in ("mean", "max"):
        doubled = resize_probability(label, (12, 16), reduce=reduce)
        np.testing.assert_array_equal(doubled, np.kron(label, np.ones((2, 2), np.float32)))
        halved = resize_probability(doubled, (6, 8), reduce=reduce)
        np.testing.assert_allclose(halved, label, atol=1e-6)


def test_a_line_of_one_pixel_stays_whole_where_boundaries_shrink():
    boundaries = np.zeros((40, 40), np.float32)
    boundaries[np.arange(40), np.arange(40)] = 1
    small = resize_label(boundaries, (8, 8), "boundaries")
    np.testing.assert_array_equal(small, np.eye(8, dtype=np.float32))


def test_saliency_becomes_the_share_of_the_area_that_is_labelled():
    saliency = np.float32([[1, 0, -1, -1], [1, 1, 1, -1]])
    small = resize_label(saliency, (1, 2), "saliency")
    np.testing.assert_allclose(small, [[0.75, -1]], atol=1e-6)
    small = resize_label(saliency[:, :3], (1, 1), "saliency")
    np.testing.assert_allclose(small, [[0.8]], atol=1e-6)


class TestFit:
    """One size for all samples."""

    def sample(self, height, width):
        pair = nyu_files.make_pair(3, height=height, width=width)
        labels = {
            "normals": pair.vectors,
            "depth": pair.depth_m,
            "semseg": pair.ids,
            "saliency": (pair.edge / 255).astype(np.float32),
        }
        return Sample(key="a", image=pair.image, labels=labels)

    def test_padding_keeps_all_pixels_and_adds_unlabelled_ones(self):
        sample = self.sample(5, 7)
        padded = fit_sample(sample, (8, 9), "pad")
        inside = np.zeros((8, 9), bool)
        inside[1:6, 1:8] = True
        np.testing.assert_array_equal(padded.image[1:6, 1:8], sample.image)
        assert (padded.image[~inside] == PAD_RGB).all()
        for task, label in padded.labels.items():
            np.testing.assert_array_equal(label[1:6, 1:8], sample.labels[task])
            assert (label[~inside] == INVALID_VALUES[TASK_KINDS[task]]).all()
            assert label.dtype == sample.labels[task].dtype

    def test_padding_refuses_what_is_larger(self):
        with pytest.raises(SampleError, match=r"larger_than_size: 5 x 7 .* 5 x 6"):
            fit_sample(self.sample(5, 7), (5, 6), "pad")

    def test_cropping_cuts_the_middle_and_stretching_does_not(self):
        sample = self.sample(4, 8)
        cropped = fit_sample(sample, (4, 4), "crop")
        np.testing.assert_array_equal(cropped.labels["depth"], sample.labels["depth"][:, 2:6])
        np.testing.assert_array_equal(cropped.image, sample.image[:, 2:6])
        stretched = fit_sample(sample, (4, 4), "stretch")
        assert stretched.image.shape == (4, 4, 3)
        np.testing.assert_array_equal(stretched.labels["semseg"], sample.labels["semseg"][:, 1::2])

    def test_without_a_size_nothing_changes(self):
        sample = self.sample(4, 8)
        assert fit_sample(sample, None, "crop") is sample
