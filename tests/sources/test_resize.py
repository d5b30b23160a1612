"""Cropping and resizing images and labels together."""

from __future__ import annotations

import numpy as np

from sources.resize import center_crop, resize_image, resize_nearest, resize_normals


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
