"""Label images with the creation weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perception.diffusion.features import FeatureSettings, extract_features
from perception.seeding import sample_generator, sample_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor
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
) -> list[LabelMaps]:
    """Predict labels and their confidence, in evaluation mode and without gradients.

    Args:
        backbone: The frozen diffusion model.
        method: Holds the creation weights.
        images: uint8 RGB [H, W, 3] arrays of one size, as they are stored.
        seeds: One per image, for the noise of the features.
        feature_timestep: Schedule index at which features are taken.

    Returns:
        For each image its labels and confidence by task.
    """
    pyramid = extract_features(
        backbone,
        images,
        generators=[sample_generator(seed) for seed in seeds],
        settings=FeatureSettings(timestep=feature_timestep),
    )
    height, width = images[0].shape[:2]
    found = method.predict(pyramid, (height, width))
    labels = {task: _label_arrays(task, values) for task, values in found.labels.items()}
    confidence = {
        task: np.asarray(values[:, 0].float().cpu().numpy(), dtype=np.float32)
        for task, values in found.confidence.items()
    }
    return [
        (
            {task: values[i] for task, values in labels.items()},
            {task: values[i] for task, values in confidence.items()},
        )
        for i in range(len(images))
    ]


def label_seed(unit_id: str, key: str) -> int:
    """Seed of the noise that features are taken with; another one in each round."""
    return sample_seed(unit_id, f"label/{key}", 0)


def _label_arrays(task: Task, values: Tensor) -> NDArray[Any]:
    """Batch of labels as arrays: normals [B, H, W, 3], depth [B, H, W], semseg [B, H, W] uint8."""
    array = values.cpu().numpy()
    if task == "normals":
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1), dtype=np.float32)
    if task == "depth":
        return np.ascontiguousarray(array[:, 0], dtype=np.float32)
    return array.astype(np.uint8)
