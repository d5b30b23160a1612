"""Random zoom, crop and colour of a sample: image, labels and reliability together, from a seed.

Labels move with their image, so predicted labels of a synthetic image stay those of what is seen.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from schemas.sample import INVALID_VALUES, RELIABILITY_MEASURES, TASK_KINDS, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from schemas.config_training import AugmentationSection
    from schemas.sample import Sample

    Array = NDArray[Any]

_PAD_GREY = 128
_UNSURE_DEG = 180.0
_CROP_ATTEMPTS = 10
_MAX_BRIGHTNESS = 32.0
_CONTRAST_RANGE = _SATURATION_RANGE = (0.5, 1.5)
_MAX_HUE_DEG = 36.0
_HUE_STEPS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What is seen of an image that was enlarged by a factor.

    Attributes:
        zoom: Factor of the enlargement; below 1 the image shrinks.
        top_px: First row seen, in pixels of the enlarged image; negative: padding above it.
        left_px: First column seen, likewise.
    """

    zoom: float
    top_px: float
    left_px: float


def augment_sample(sample: Sample, settings: AugmentationSection, *, seed: str) -> Sample:
    """Augment a sample as the multi-task recipe of InvPT and TaskPrompter does, without mirroring.

    Zoom by U(zoom_min, zoom_max), crop at random or pad around the middle back to the size, then
    distort the colours. Settings that do nothing give the sample itself back.

    Args:
        seed: Equal seeds give equal results.
    """
    rng = random.Random(seed)
    if not settings.zoom_min == settings.zoom_max == 1.0:
        sample = see_window(sample, draw_window(sample, settings, rng))
    if settings.photometric:
        sample = replace(sample, image=distort_colours(sample.image, rng))
    return sample


def draw_window(sample: Sample, settings: AugmentationSection, rng: random.Random) -> Window:
    """Draw the zoom and where to crop.

    Where the zoom cuts something off and ``semseg`` is known, a crop with one class alone, or with
    more than ``cat_max_ratio`` of one class, is drawn again, ten times at most.
    """
    zoom = rng.uniform(settings.zoom_min, settings.zoom_max)
    window = _draw_crop(zoom, sample.image.shape[:2], rng)
    semseg = sample.labels.get("semseg")
    if zoom <= 1.0 or settings.cat_max_ratio >= 1.0 or semseg is None:
        return window
    for _ in range(_CROP_ATTEMPTS):
        if _largest_class_share(_see_label(semseg, window, "semseg")) < settings.cat_max_ratio:
            break
        window = _draw_crop(zoom, sample.image.shape[:2], rng)
    return window


def see_window(sample: Sample, window: Window) -> Sample:
    """Look at a sample through a window of the sample's size.

    The image is resampled (bicubic, low-passed where it shrinks), labels and reliability take the
    value under each pixel's centre. Depth is divided by the zoom: so far away the same camera sees
    things in that size. Directions of normals stay. Padding is grey in the image, invalid in
    labels, and as unsure as can be in reliability.
    """
    return replace(
        sample,
        image=_see_image(sample.image, window),
        labels={task: _see_label(label, window, task) for task, label in sample.labels.items()},
        reliability={
            task: _see_nearest(
                value,
                window,
                padding=_UNSURE_DEG if RELIABILITY_MEASURES[task] == "expected_error_deg" else 0.0,
            )
            for task, value in sample.reliability.items()
        },
    )


def distort_colours(image: Array, rng: random.Random) -> Array:
    """Change brightness, contrast, saturation and hue, each with probability 1/2.

    Brightness by up to 32 of 255, contrast (before or after the other two) and saturation by a
    factor in [0.5, 1.5], hue by up to 36 degrees (the recipe's 18 of OpenCV's half degrees).

    Args:
        image: uint8 RGB [H, W, 3]; stays as it is.

    Returns:
        uint8 RGB [H, W, 3].
    """
    contrast_is_first = rng.random() < 0.5
    offset = _maybe(rng, -_MAX_BRIGHTNESS, _MAX_BRIGHTNESS, otherwise=0.0)
    contrast = _maybe(rng, *_CONTRAST_RANGE, otherwise=1.0)
    saturation = _maybe(rng, *_SATURATION_RANGE, otherwise=1.0)
    hue_deg = _maybe(rng, -_MAX_HUE_DEG, _MAX_HUE_DEG, otherwise=0.0)
    changed = _scale(image, 1.0, offset)
    if contrast_is_first:
        changed = _scale(changed, contrast, 0.0)
    changed = _shift_hue(changed, saturation, hue_deg)
    return changed if contrast_is_first else _scale(changed, contrast, 0.0)


def _maybe(rng: random.Random, low: float, high: float, *, otherwise: float) -> float:
    is_drawn, value = rng.random() < 0.5, rng.uniform(low, high)
    return value if is_drawn else otherwise


def _scale(image: Array, factor: float, offset: float) -> Array:
    if factor == 1.0 and offset == 0.0:
        return image
    changed = image.astype(np.float32) * factor + offset
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def _shift_hue(image: Array, saturation: float, hue_deg: float) -> Array:
    if saturation == 1.0 and hue_deg == 0.0:
        return image
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(np.float32)
    hsv[..., 0] = np.rint(hsv[..., 0] + hue_deg / 360.0 * _HUE_STEPS) % _HUE_STEPS
    hsv[..., 1] = np.clip(np.rint(hsv[..., 1] * saturation), 0, 255)
    size = (image.shape[1], image.shape[0])
    return np.asarray(Image.frombytes("HSV", size, hsv.astype(np.uint8).tobytes()).convert("RGB"))


def _draw_crop(zoom: float, size: tuple[int, ...], rng: random.Random) -> Window:
    """Draw where to cut what is too large; what is too small is put in the middle."""
    top_px, left_px = (
        rng.uniform(0.0, excess) if excess > 0 else excess / 2
        for excess in (side * (zoom - 1.0) for side in size)
    )
    return Window(zoom=zoom, top_px=top_px, left_px=left_px)


def _largest_class_share(ids: Array) -> float:
    """Share of the commonest class among the pixels that have one; 1 if there are none."""
    counts = np.bincount(ids[ids != INVALID_VALUES["classes"]].ravel())
    return float(counts.max() / counts.sum()) if counts.size else 1.0


def _see_image(image: Array, window: Window) -> Array:
    height, width = image.shape[:2]
    top, left = window.top_px / window.zoom, window.left_px / window.zoom
    bottom, right = top + height / window.zoom, left + width / window.zoom
    # Resampling needs pixels wherever the window reaches: edges go on until padding covers them.
    margin = max(0, math.ceil(max(-top, -left, bottom - height, right - width)))
    wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    box = (left + margin, top + margin, right + margin, bottom + margin)
    seen = np.array(Image.fromarray(wide).resize((width, height), Image.Resampling.BICUBIC, box))
    _, _, is_inside = _source_pixels(image.shape[:2], window)
    seen[~is_inside] = _PAD_GREY
    return seen


def _see_label(label: Array, window: Window, task: Task) -> Array:
    kind = TASK_KINDS[task]
    seen = _see_nearest(label, window, padding=INVALID_VALUES[kind])
    return seen / np.float32(window.zoom) if kind == "distance" else seen


def _see_nearest(array: Array, window: Window, *, padding: float) -> Array:
    rows, columns, is_inside = _source_pixels(array.shape[:2], window)
    seen = array[rows[:, None], columns[None, :]]
    seen[~is_inside] = padding
    return seen


def _source_pixels(size: tuple[int, ...], window: Window) -> tuple[Array, Array, Array]:
    """Return the row and column under each pixel's centre, and whether it lies in the image."""
    found = []
    for side, start_px in zip(size, (window.top_px, window.left_px), strict=True):
        source = np.floor((np.arange(side) + 0.5 + start_px) / window.zoom).astype(np.int64)
        found.append((source.clip(0, side - 1), (source >= 0) & (source < side)))
    (rows, rows_inside), (columns, columns_inside) = found
    return rows, columns, rows_inside[:, None] & columns_inside[None, :]
