"""The multi-task recipe's loss: each task's own, summed with its weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from perception.losses.depth import depth_l1_loss
from perception.losses.normals import normals_l1_loss
from perception.losses.probability import boundaries_loss, saliency_loss
from perception.losses.segmentation import cross_entropy_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from schemas.sample import Task

MULTI_TASK_WEIGHTS: dict[Task, float] = {
    "normals": 10.0,
    "depth": 1.0,
    "semseg": 1.0,
    "human_parts": 2.0,
    "saliency": 5.0,
    "boundaries": 50.0,
}
"""Factors of the tasks' losses in InvPT's and TaskPrompter's recipes."""

MULTI_TASK_LOSSES: dict[Task, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "normals": normals_l1_loss,
    "depth": depth_l1_loss,
    "semseg": cross_entropy_loss,
    "human_parts": cross_entropy_loss,
    "saliency": saliency_loss,
    "boundaries": boundaries_loss,
}
"""Task to its loss of (raw output, labels, weights of the pixels)."""


def multi_task_loss(
    predictions: Mapping[Task, Tensor],
    labels: Mapping[Task, Tensor],
    *,
    task_weights: Mapping[Task, float] | None = None,
    weights: Mapping[Task, Tensor] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Sum the losses of all predicted tasks, as InvPT and TaskPrompter do.

    Args:
        predictions: Task to raw output at the labels' size: ``normals`` [B, 3, H, W] of any
            length; ``depth`` [B, 1, H, W] in metres; ``semseg`` and ``human_parts`` logits
            [B, K, H, W]; ``saliency`` and ``boundaries`` logits [B, 1, H, W].
        labels: Labels of at least these tasks, encoded as ``perception.methods.protocol.Labels``;
            an image without a label of a task is invalid everywhere.
        task_weights: Task to its factor; that of ``MULTI_TASK_WEIGHTS`` where missing.
        weights: Task to [B, 1, H, W], as for ``weighted_mean``; 1 where missing.

    Returns:
        The scalar to minimise, float32, and the loss of each task before its factor. A task
        without a valid pixel gives 0 with a gradient of 0.

    Raises:
        ShapeError: If an output does not fit its labels.
    """
    factors = MULTI_TASK_WEIGHTS | dict(task_weights or {})
    terms = {
        task: MULTI_TASK_LOSSES[task](output, labels[task], (weights or {}).get(task))
        for task, output in predictions.items()
    }
    total = torch.stack([factors[task] * term for task, term in terms.items()]).sum()
    return total, {task: float(term.detach()) for task, term in terms.items()}
