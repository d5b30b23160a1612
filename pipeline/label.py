"""Label images with the creation weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perception.diffusion.features import FeatureSettings, extract_features
from perception.mirror import average_with_mirror
from perception.seeding import sample_generator, sample_seed
from schemas.sample import IGNORE_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor, Predictions
    from schemas.config import LabellingSection
    from schemas.sample import Task

LabelMaps = tuple["dict[Task, NDArray[Any]]", "dict[Task, NDArray[np.float32]]"]
"""Labels and confidence of one image, as in :class:`schemas.sample.Sample`."""


def label_images(
    backbone: DiffusionBackbone,
    method: DensePredictor,
    images: Sequence[NDArray[np.uint8]],
    *,
    seeds: Sequence[int],
    feature_timestep: int,
    settings: LabellingSection,
) -> list[LabelMaps]:
    """Predict labels and their confidence, in evaluation mode and without gradients.

    Args:
        backbone: The frozen diffusion model.
        method: Holds the creation weights.
        images: uint8 RGB [H, W, 3] arrays of one size, as they are stored.
        seeds: One per image, for the noise of the features.
        feature_timestep: Schedule index at which features are taken.
        settings: Whether mirror images are asked too, and which pixels stay unlabelled.

    Returns:
        For each image its labels and confidence by task.
    """

    def predict(views: Sequence[NDArray[np.uint8]]) -> Predictions:
        pyramid = extract_features(
            backbone,
            views,
            generators=[sample_generator(seed) for seed in seeds],
            settings=FeatureSettings(timestep=feature_timestep),
        )
        height, width = views[0].shape[:2]
        return method.predict(pyramid, (height, width))

    found = predict(images)
    if settings.average_mirrored:
        mirrored = predict([np.ascontiguousarray(image[:, ::-1]) for image in images])
        found = average_with_mirror(found, mirrored)
    return [_label_maps(found, index, settings=settings) for index in range(len(images))]


def mask_unsure(
    label: NDArray[Any], confidence: NDArray[np.float32], task: Task, settings: LabellingSection
) -> NDArray[Any]:
    """Leave the pixels unlabelled that the predictor is not sure about.

    Args:
        label: ``normals`` [H, W, 3], ``depth`` [H, W] or ``semseg`` uint8 [H, W].
        confidence: [H, W]; degrees for normals, a probability for the others.
        task: Which label it is.
        settings: Limits.

    Returns:
        A copy in which such pixels carry the task's invalid value.
    """
    if task == "normals":
        unsure = confidence > settings.max_pixel_error_deg
    else:
        unsure = confidence < settings.min_pixel_confidence
    masked = label.copy()
    masked[unsure] = IGNORE_ID if task == "semseg" else 0
    return masked


def label_seed(unit_id: str, key: str) -> int:
    """Seed of the noise that features are taken with; another one in each round."""
    return sample_seed(unit_id, f"label/{key}", 0)


def _label_maps(found: Predictions, index: int, *, settings: LabellingSection) -> LabelMaps:
    labels: dict[Task, NDArray[Any]] = {}
    confidence: dict[Task, NDArray[np.float32]] = {}
    for task, values in found.labels.items():
        sure = found.confidence[task][index, 0].float().cpu().numpy()
        confidence[task] = np.asarray(sure, dtype=np.float32)
        labels[task] = mask_unsure(_as_array(task, values[index]), sure, task, settings)
    return labels, confidence


def _as_array(task: Task, value: Tensor) -> NDArray[Any]:
    """Label of one image: normals [H, W, 3], depth [H, W], semseg [H, W] uint8."""
    array = value.cpu().numpy()
    if task == "normals":
        return np.ascontiguousarray(array.transpose(1, 2, 0), dtype=np.float32)
    if task == "depth":
        return np.ascontiguousarray(array[0], dtype=np.float32)
    return np.asarray(array, dtype=np.uint8)
