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

if TYPE_CHECKING:
    from schemas.sample import Task


def average_with_mirror(found: Predictions, mirrored: Predictions) -> Predictions:
    """Average what was predicted for images with what was predicted for their mirror images.

    Normals are the normalised mean of both directions, depth is the mean, classes are those of the
    surer of the two at each pixel. The confidence is the mean; for classes, the greater.

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
        if task == "semseg":
            is_surer = (their_sure > sure).squeeze(1)
            labels[task] = torch.where(is_surer, theirs, ours)
            confidence[task] = torch.maximum(sure, their_sure)
        else:
            mean = (ours + theirs) / 2
            labels[task] = functional.normalize(mean, dim=1) if task == "normals" else mean
            confidence[task] = (sure + their_sure) / 2
    return Predictions(labels=labels, confidence=confidence)


def mirror_label(label: Tensor, task: Task) -> Tensor:
    """Swap left and right of a label map; an involution.

    Args:
        label: ``normals`` [B, 3, H, W], ``depth`` [B, 1, H, W] or ``semseg`` [B, H, W].
        task: Which of them.
    """
    flipped = label.flip(-1)
    if task != "normals":
        return flipped
    return flipped * flipped.new_tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)
