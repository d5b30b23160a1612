"""Non-maximum suppression that reduces a map of boundary probability to its ridges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import convolve1d

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMOOTHING_RADIUS_PX = 4
BORDER_PX = 5
MULTIPLIER = 1.01
_TINY_CURVATURE = 1e-5


def suppress_non_maxima(probability_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep a value where it is about as large as its two neighbours across the ridge.

    The neighbours lie at 1 px to both sides along the normal of the ridge and are interpolated; a
    value falls to 0 if 1.01 times it is below one of them. Within 5 px of the border what is left
    fades linearly, to 0 in the outermost row (Dollár and Zitnick, 2015).

    Args:
        probability_HW: Probability of a boundary in [0, 1].

    Returns:
        float64 [H, W].
    """
    rows, columns = np.nonzero(probability_HW > 0)
    slope = ridge_normal_slope(probability_HW)[rows, columns]
    # An angle of atan(slope), or that plus π: the two neighbours are the same.
    step_x = 1 / np.sqrt(1 + slope**2)
    step_y = slope * step_x
    values = MULTIPLIER * probability_HW[rows, columns]
    ahead = _sample(probability_HW, rows + step_y, columns + step_x)
    behind = _sample(probability_HW, rows - step_y, columns - step_x)
    is_ridge = (values >= ahead) & (values >= behind)
    ridges = np.zeros_like(probability_HW)
    rows, columns = rows[is_ridge], columns[is_ridge]
    ridges[rows, columns] = probability_HW[rows, columns]
    height, width = probability_HW.shape
    return ridges * _fade(height)[:, None] * _fade(width)[None, :]


def ridge_normal_slope(probability_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slope dy/dx (y down) of the normal of the ridge through each pixel, from second derivatives.

    tan O = Oyy · sign(-Oxy) / (Oxx + 1e-5) on the map smoothed by a triangle of radius 4. On a
    straight ridge that is the square of the true slope, with its sign: exact at multiples of 45
    degrees and up to 13 degrees off between them, as in the published tool. Where Oxy is 0 the sign
    is taken as positive, not 0 as there: a perfectly level ridge would not be thinned at all.

    Args:
        probability_HW: Probability of a boundary in [0, 1].

    Returns:
        float64 [H, W].
    """
    ramp = np.arange(1, SMOOTHING_RADIUS_PX + 2, dtype=np.float64)
    triangle = np.concatenate([ramp, ramp[-2::-1]]) / (SMOOTHING_RADIUS_PX + 1) ** 2
    smooth = convolve1d(convolve1d(probability_HW, triangle, axis=0), triangle, axis=1)
    along_y, along_x = np.gradient(smooth)
    along_xx = np.gradient(along_x, axis=1)
    along_yy, along_xy = np.gradient(along_y)
    sign = np.where(along_xy > 0, -1.0, 1.0)
    slope: NDArray[np.float64] = sign * along_yy / (along_xx + _TINY_CURVATURE)
    return slope


def _sample(
    values_HW: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate bilinearly; positions outside are moved to the border."""
    height, width = values_HW.shape
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    down, right = rows - top, columns - left
    first = top * width + left
    # At the last row or column the weight of the neighbour is 0: any pixel serves.
    next_row = np.where(top < height - 1, width, 0)
    next_column = np.where(left < width - 1, 1, 0)
    flat = values_HW.ravel()
    upper = flat[first] * (1 - right) + flat[first + next_column] * right
    first = first + next_row
    lower = flat[first] * (1 - right) + flat[first + next_column] * right
    found: NDArray[np.float64] = upper * (1 - down) + lower * down
    return found


def _fade(length: int) -> NDArray[np.float64]:
    border = min(BORDER_PX, length // 2)
    distance = np.minimum(np.arange(length), np.arange(length)[::-1])
    return np.minimum(distance / max(border, 1), 1.0)
