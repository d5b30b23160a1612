"""Crop, pad and resize images and label maps together without inventing labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.errors import SampleError
from schemas.sample import IGNORE_PROBABILITY, INVALID_VALUES, TASK_KINDS, Sample, Task

Fit = Literal["crop", "stretch", "pad"]
Array = NDArray[Any]

PAD_RGB = (124, 116, 104)
"""Mean colour of natural images: about zero after the usual normalisation."""


def fit_sample(sample: Sample, size: tuple[int, int] | None, fit: Fit) -> Sample:
    """Bring a sample to a size.

    Args:
        size: Height and width; None: leave it as it is.
        fit: crop: cut the middle to the aspect of ``size``, then resize; stretch: resize; pad: add
            unlabelled pixels on all sides.

    Returns:
        The sample with image and labels of the new size.

    Raises:
        SampleError: ``larger_than_size`` if it should be padded but is larger.
    """
    if size is None or sample.image.shape[:2] == size:
        return sample
    if fit == "pad":
        return _pad(sample, size)
    aspect = size if fit == "crop" else sample.image.shape[:2]
    return replace(
        sample,
        image=resize_image(np.ascontiguousarray(center_crop(sample.image, aspect)), size),
        labels={
            task: resize_label(center_crop(label, aspect), size, task)
            for task, label in sample.labels.items()
        },
    )


def center_crop(array: Array, size: tuple[int, int]) -> Array:
    """Cut the middle of [H, W, …] to the aspect of ``size`` (height, width)."""
    height, width = array.shape[:2]
    crop_height = min(height, round(width * size[0] / size[1]))
    crop_width = min(width, round(height * size[1] / size[0]))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return array[top : top + crop_height, left : left + crop_width]


def resize_image(image: Array, size: tuple[int, int]) -> Array:
    """Resize uint8 RGB [H, W, 3]: bicubic, low-passed where it shrinks."""
    if image.shape[:2] == size:
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def resize_label(label: Array, size: tuple[int, int], task: Task) -> Array:
    """Resize a label map as its task wants it; its invalid value stays what it is.

    Normals and saliency are averaged over the area of a new pixel; a new pixel is a boundary as
    surely as the surest one in its area; depth and class ids are those under its centre.

    Args:
        label: Encoded as ``schemas.sample`` says.
    """
    kind = TASK_KINDS[task]
    if kind == "direction":
        return resize_normals(label, size)
    if kind == "probability":
        return resize_probability(label, size, reduce="max" if task == "boundaries" else "mean")
    return resize_nearest(label, size)


def resize_nearest(label: Array, size: tuple[int, int]) -> Array:
    """Resize [H, W] by taking the value under each new pixel's centre; nothing is mixed."""
    rows = _centres(label.shape[0], size[0])
    columns = _centres(label.shape[1], size[1])
    return np.ascontiguousarray(label[rows[:, None], columns[None, :]])


def resize_normals(normals: Array, size: tuple[int, int]) -> Array:
    """Resize a field of normals: mean over the area of a new pixel, unit length again.

    Args:
        normals: float32 [H, W, 3], unit or all-zero where invalid.

    Returns:
        float32 [height, width, 3]; a pixel is invalid (all-zero) where more than half of its
        area was.
    """
    if normals.shape[:2] == size:
        return normals
    valid = np.any(normals != 0, axis=-1).astype(np.float32)
    summed = np.stack([_area_mean(normals[..., axis], size) for axis in range(3)], axis=-1)
    length = np.linalg.norm(summed, axis=-1)
    keep = (_area_mean(valid, size) >= 0.5) & (length > 1e-3)
    unit = summed / np.maximum(length, 1e-12)[..., None]
    return np.where(keep[..., None], unit, 0.0).astype(np.float32)


def resize_probability(
    probability: Array, size: tuple[int, int], *, reduce: Literal["mean", "max"]
) -> Array:
    """Resize probabilities: mean or greatest value over the area of a new pixel.

    The greatest value keeps lines of one pixel whole where an image shrinks.

    Args:
        probability: float32 [H, W] in [0, 1], -1 = ignore.
        reduce: What is taken of the values that are not ignored.

    Returns:
        float32 [height, width]; a pixel is ignored where more than half of its area was.
    """
    if probability.shape == size:
        return probability
    valid = (probability >= 0).astype(np.float32)
    share = _area_mean(valid, size)
    known = np.maximum(probability, 0).astype(np.float32)
    if reduce == "max":
        values = _area_max(known, size)
    else:
        values = np.clip(_area_mean(known, size) / np.maximum(share, 1e-6), 0, 1)
    return np.where(share >= 0.5, values, np.float32(IGNORE_PROBABILITY)).astype(np.float32)


def _area_max(plane: Array, size: tuple[int, int]) -> Array:
    rows, columns = (np.arange(size[axis]) * plane.shape[axis] // size[axis] for axis in (0, 1))
    tallest: Array = np.maximum.reduceat(np.maximum.reduceat(plane, rows, axis=0), columns, axis=1)
    return tallest


def _area_mean(plane: Array, size: tuple[int, int]) -> Array:
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX))


def _centres(old: int, new: int) -> Array:
    return ((np.arange(new) + 0.5) * old / new).astype(np.int64)


def _pad(sample: Sample, size: tuple[int, int]) -> Sample:
    height, width = sample.image.shape[:2]
    if height > size[0] or width > size[1]:
        raise SampleError(
            "larger_than_size",
            f"{height} x {width} (height x width) does not fit into {size[0]} x {size[1]}; give a "
            "greater --size, or --fit crop",
        )
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    inside = (slice(top, top + height), slice(left, left + width))
    image = np.empty((*size, 3), np.uint8)
    image[:] = PAD_RGB
    image[inside] = sample.image
    labels = {}
    for task, label in sample.labels.items():
        shape = (*size, *label.shape[2:])
        padded = np.full(shape, INVALID_VALUES[TASK_KINDS[task]], label.dtype)
        padded[inside] = label
        labels[task] = padded
    return replace(sample, image=image, labels=labels)
