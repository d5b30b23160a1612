"""Non-maximum suppression on ridges whose direction is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from evaluation.edge_nms import ridge_normal_slope, suppress_non_maxima

SIDE = 49


def ridge(angle_deg: float, *, sigma: float = 2.0) -> np.ndarray:
    """A ridge through the middle whose normal has this angle to the x axis (y down)."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    angle = math.radians(angle_deg)
    distance = columns * math.cos(angle) + rows * math.sin(angle)
    return np.exp(-(distance**2) / (2 * sigma**2))


@pytest.mark.parametrize("angle_deg", [-60, -45, -30, 0, 30, 45, 60])
def test_the_normal_of_a_straight_ridge_is_found(angle_deg: float) -> None:
    values = ridge(angle_deg)
    on_ridge = values > 0.95
    on_ridge[:12], on_ridge[-12:], on_ridge[:, :12], on_ridge[:, -12:] = 0, 0, 0, 0
    found = np.degrees(np.arctan(ridge_normal_slope(values)[on_ridge]))
    # tan O = Oyy / Oxx is the square of the slope but for 0, 45 and 90 degrees.
    slope = math.tan(math.radians(angle_deg))
    wanted = math.degrees(math.atan(math.copysign(slope**2, slope)))
    assert np.median(found) == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize("angle_deg", [0, 20, 45, 70, 90, 135])
def test_only_the_crest_is_left(angle_deg: float) -> None:
    values = ridge(angle_deg)
    kept = suppress_non_maxima(values)[8:-8, 8:-8]
    values = values[8:-8, 8:-8]
    assert (kept[values > 0.995] > 0).mean() > 0.9
    assert not kept[(values < 0.7) & (values > 0.01)].any()
    np.testing.assert_array_equal(kept[kept > 0], values[kept > 0])


def test_it_is_what_the_definition_says_pixel_by_pixel() -> None:
    values = gaussian_filter(np.random.default_rng(0).random((30, 40)), 1.2)
    angle = np.mod(np.arctan(ridge_normal_slope(values)), math.pi)
    rows, columns = np.mgrid[0:30, 0:40].astype(float)
    kept = values.copy()
    for sign in (-1, 1):
        at = [rows + sign * np.sin(angle), columns + sign * np.cos(angle)]
        kept[1.01 * values < map_coordinates(values, at, order=1, mode="nearest")] = 0
    inner = (slice(6, -6), slice(6, -6))
    np.testing.assert_array_equal(suppress_non_maxima(values)[inner], kept[inner])


def test_values_fade_to_nothing_over_five_pixels_at_the_border() -> None:
    values = np.zeros((20, 30))
    values[10] = 1.0
    np.testing.assert_allclose(
        suppress_non_maxima(values)[10, :7], [0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    )


def test_a_turned_map_gives_the_turned_ridges() -> None:
    values = gaussian_filter(np.random.default_rng(1).random((30, 40)), 1.2)
    kept = suppress_non_maxima(values)
    np.testing.assert_allclose(suppress_non_maxima(values[::-1]), kept[::-1])
    np.testing.assert_allclose(suppress_non_maxima(values[:, ::-1]), kept[:, ::-1])


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (3, 4)])
def test_tiny_maps_are_no_error(shape: tuple[int, int]) -> None:
    assert suppress_non_maxima(np.full(shape, 0.5)).shape == shape
