"""Label images with the creation weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perception.predict import predict_images
from perception.seeding import sample_seed
from schemas.sample import INVALID_VALUES, RELIABILITY_MEASURES, TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor, Predictions
    from schemas.config_labelling import LabellingSection
    from schemas.sample import Task

HARD_THRESHOLD = 0.5
"""Least probability that a hard label calls one."""

LabelMaps = tuple["dict[Task, NDArray[Any]]", "dict[Task, NDArray[np.float32]]"]
"""Labels and reliability of one image, as in :class:`schemas.sample.Sample`."""


def label_images(
    backbone: DiffusionBackbone,
    method: DensePredictor,
    images: Sequence[NDArray[np.uint8]],
    *,
    seeds: Sequence[int],
    settings: LabellingSection,
) -> list[LabelMaps]:
    """Predict labels and their reliability, in evaluation mode and without gradients.

    Args:
        images: uint8 RGB [H, W, 3] arrays of one size, as they are stored.
        seeds: One per image, for the noise of the features.
        settings: Whether mirror images are asked too, whether probabilities are rounded, and
            which pixels stay unlabelled.

    Returns:
        For each image its labels and reliability by task.
    """
    found = predict_images(
        backbone, method, images, seeds=seeds, average_mirrored=settings.average_mirrored
    )
    return [_label_maps(found, index, settings=settings) for index in range(len(images))]


def mask_unsure(
    label: NDArray[Any], reliability: NDArray[np.float32], task: Task, settings: LabellingSection
) -> NDArray[Any]:
    """Leave the pixels unlabelled that the predictor is not sure about.

    Args:
        label: One image's label, encoded as ``schemas.sample`` says.
        reliability: [H, W]; degrees for normals, in [0, 1] for the others.

    Returns:
        A copy in which such pixels carry the task's invalid value.
    """
    if RELIABILITY_MEASURES[task] == "expected_error_deg":
        unsure = reliability > settings.max_pixel_error_deg
    else:
        unsure = reliability < settings.min_pixel_confidence
    masked = label.copy()
    masked[unsure] = INVALID_VALUES[TASK_KINDS[task]]
    return masked


def label_seed(unit_id: str, key: str) -> int:
    """Seed of the noise that features are taken with; another one in each round."""
    return sample_seed(unit_id, f"label/{key}", 0)


def label_array(task: Task, value: Tensor, *, is_soft: bool = True) -> NDArray[Any]:
    """Encode one image's label as ``schemas.sample`` says.

    Args:
        value: A row of a batch of labels, as methods give them.
        is_soft: Whether probabilities stay; else they become 0 and 1.
    """
    array = value.cpu().numpy()
    kind = TASK_KINDS[task]
    if kind == "direction":
        return np.ascontiguousarray(array.transpose(1, 2, 0), dtype=np.float32)
    if kind == "classes":
        return np.asarray(array, dtype=np.uint8)
    plane = np.ascontiguousarray(array[0], dtype=np.float32)
    if kind == "probability" and not is_soft:
        return (plane >= HARD_THRESHOLD).astype(np.float32)
    return plane


def _label_maps(found: Predictions, index: int, *, settings: LabellingSection) -> LabelMaps:
    labels: dict[Task, NDArray[Any]] = {}
    reliability: dict[Task, NDArray[np.float32]] = {}
    for task, values in found.labels.items():
        sure = found.reliability[task][index, 0].float().cpu().numpy()
        reliability[task] = np.asarray(sure, dtype=np.float32)
        label = label_array(task, values[index], is_soft=settings.soft_labels)
        labels[task] = mask_unsure(label, sure, task, settings)
    return labels, reliability
