"""Raw outputs of heads become predictions with their reliability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from perception.methods.protocol import Predictions
from schemas.sample import TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from schemas.sample import Task


def multi_task_predictions(raw: Mapping[Task, Tensor]) -> Predictions:
    """Turn the raw outputs of ``multi_task_loss`` into predictions, task by task.

    Args:
        raw: ``normals`` [B, 3, H, W] of any length; ``depth`` [B, 1, H, W], positive metres;
            ``semseg`` and ``human_parts`` logits [B, K, H, W]; ``saliency`` and ``boundaries``
            logits [B, 1, H, W].

    Returns:
        Predictions of the same tasks. Such outputs hold no estimate of the error of normals and
        depth, so their reliability is the surest everywhere (an expected error of 0 degrees; 1):
        no threshold drops a pixel.
    """
    labels: dict[Task, Tensor] = {}
    reliability: dict[Task, Tensor] = {}
    for task, output in raw.items():
        labels[task], reliability[task] = _prediction(task, output)
    return Predictions(labels=labels, reliability=reliability)


def class_prediction(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the likeliest class, int64 [B, H, W], and its probability, float32 [B, 1, H, W]."""
    best = logits.float().softmax(dim=1).max(dim=1)
    return best.indices, best.values.unsqueeze(1)


def probability_prediction(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return p = sigmoid(logit) and max(p, 1 - p), float32 [B, 1, H, W] both."""
    probability = logits.float().sigmoid()
    return probability, torch.maximum(probability, 1 - probability)


def _prediction(task: Task, output: Tensor) -> tuple[Tensor, Tensor]:
    kind = TASK_KINDS[task]
    if kind == "classes":
        return class_prediction(output)
    if kind == "probability":
        return probability_prediction(output)
    output = output.float()
    if kind == "direction":
        return functional.normalize(output, dim=1), torch.zeros_like(output[:, :1])
    return output, torch.ones_like(output)
