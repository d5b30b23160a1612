"""Bring a sample of any size to the size that is wanted, its labels with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from schemas.errors import SampleError
from schemas.sample import INVALID_VALUES, TASK_KINDS, Sample
from sources.resize import center_crop, resize_image, resize_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

PrepareFit = Literal["crop", "stretch", "pad"]
PAD_RGB = (124, 116, 104)
"""Mean colour of natural images: about zero after the usual normalisation."""


def fit_sample(sample: Sample, size: tuple[int, int] | None, fit: PrepareFit) -> Sample:
    """Bring a sample to a size.

    Args:
        sample: Image and labels of one size.
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
    crop = center_crop if fit == "crop" else _whole
    return replace(
        sample,
        image=resize_image(np.ascontiguousarray(crop(sample.image, size)), size),
        labels={
            task: resize_label(crop(label, size), size, task)
            for task, label in sample.labels.items()
        },
    )


def _whole(array: NDArray[Any], _: tuple[int, int]) -> NDArray[Any]:
    return array


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
