"""Thinning of nested maps against scikit-image's, map by map."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label
from skimage.morphology import thin as reference_thin

from evaluation.thinning import thin, thin_levels


def blobs(seed: int, sigma: float, share: float) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).random((40, 53)), sigma)
    return field > np.quantile(field, 1 - share)


@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_map_is_thinned_as_by_scikit_image(sigma: float, share: float) -> None:
    mask = blobs(3, sigma, share)
    np.testing.assert_array_equal(thin(mask), reference_thin(mask))


@pytest.mark.parametrize("num_levels", [1, 64, 65, 101])
def test_every_level_is_thinned_as_if_alone(num_levels: int) -> None:
    field = gaussian_filter(np.random.default_rng(0).random((30, 41)), 1.0)
    levels = np.digitize(field, np.linspace(field.min(), field.max(), num_levels + 1)[1:-1])
    thinned = thin_levels(levels, num_levels)
    assert thinned.present.shape == (len(thinned.rows), num_levels)
    for level in range(num_levels):
        found = np.zeros(levels.shape, dtype=bool)
        found[thinned.rows, thinned.columns] = thinned.present[:, level]
        np.testing.assert_array_equal(found, reference_thin(levels > level))


def test_thinning_again_changes_nothing_and_parts_stay_connected() -> None:
    mask = blobs(5, 1.5, 0.4)
    once = thin(mask)
    np.testing.assert_array_equal(thin(once), once)
    assert not (once & ~mask).any()
    eight = np.ones((3, 3))
    assert label(once, eight)[1] == label(mask, eight)[1]


def test_a_bar_becomes_a_line() -> None:
    mask = np.zeros((9, 30), dtype=bool)
    mask[3:6, 2:28] = True
    line = thin(mask)
    assert set(np.nonzero(line)[0]) == {4}
    assert line.sum() >= 22


def test_an_empty_map_stays_empty() -> None:
    assert not thin(np.zeros((5, 6), dtype=bool)).any()
