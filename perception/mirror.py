"""Predictions of an image and of its mirror image, averaged into one.

Shapes and encodings are those of ``perception.methods.protocol.Predictions``; mirroring swaps left
and right, which negates the x component of normals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from perception.methods.protocol import Predictions
from schemas.sample import TASK_KINDS

if TYPE_CHECKING:
    from schemas.sample import Task


def average_with_mirror(found: Predictions, mirrored: Predictions) -> Predictions:
    """Average what was predicted for images with what was predicted for their mirror images.

    Normals are the normalised mean of both directions, depth and probabilities are means, classes
    are those of the surer of the two at each pixel. The confidence is the mean; for classes, the
    greater; for probabilities, that of their mean, max(p, 1 - p).

    Args:
        found: Predictions for a batch of images.
        mirrored: Predictions for the same images, mirrored.

    Returns:
        Predictions in the frame of ``found``.
    """
    labels: dict[Task, Tensor] = {}
    confidence: dict[Task, Tensor] = {}
    for task, ours in found.labels.items():
        theirs = mirror_label(mirrored.labels[task], task)
        sure, their_sure = found.confidence[task], mirrored.confidence[task].flip(-1)
        kind = TASK_KINDS[task]
        if kind == "classes":
            is_surer = (their_sure > sure).squeeze(1)
            labels[task] = torch.where(is_surer, theirs, ours)
            confidence[task] = torch.maximum(sure, their_sure)
            continue
        mean = (ours + theirs) / 2
        labels[task] = functional.normalize(mean, dim=1) if kind == "direction" else mean
        is_probability = kind == "probability"
        confidence[task] = (
            torch.maximum(mean, 1 - mean) if is_probability else (sure + their_sure) / 2
        )
    return Predictions(labels=labels, confidence=confidence)


def mirror_label(label: Tensor, task: Task) -> Tensor:
    """Swap left and right of a label map; an involution.

    Args:
        label: A batch of labels, encoded like ``perception.methods.protocol.Labels``.
        task: What they are.
    """
    flipped = label.flip(-1)
    if TASK_KINDS[task] != "direction":
        return flipped
    return flipped * flipped.new_tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)
