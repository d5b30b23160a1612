"""DiffusionMTL's loss: each image weighs the same, however many of its tasks have labels.

Ye & Xu (2024, DiffusionMTL). T: tasks, B: images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from perception.losses.multi_task import MULTI_TASK_LOSSES
from schemas.sample import INVALID_VALUES, TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from schemas.sample import Task

    Labels = Mapping[Task, Tensor]


_SMALLEST_COUNT = 1e-8


def labelled_images(labels: Labels, tasks: Sequence[Task]) -> Tensor:
    """Tell which images have labels of which task: at least one valid pixel.

    Args:
        labels: Of at least these tasks, encoded as ``perception.methods.protocol.Labels``.

    Returns:
        bool [T, B], in the order of ``tasks``.
    """
    return torch.stack([_valid_pixels(labels[task], task).any(dim=1) for task in tasks])


def image_weights(
    labels: Labels, tasks: Sequence[Task], weights: Mapping[Task, Tensor] | None
) -> Tensor:
    """Mean weight of an image's valid pixels.

    Args:
        weights: Task to [B, 1, H, W]; 1 where missing.

    Returns:
        float32 [T, B], in the order of ``tasks``; 0 for an image without labels of the task.
    """
    means = []
    for task in tasks:
        valid = _valid_pixels(labels[task], task)
        given = (weights or {}).get(task)
        counted = valid.float() if given is None else valid * given.flatten(1).float()
        means.append(counted.sum(dim=1) / valid.sum(dim=1).clamp_min(1))
    return torch.stack(means)


def of_rows(values: Mapping[Task, Tensor], rows: Mapping[Task, Tensor]) -> dict[Task, Tensor]:
    """Take each task's own images of a batch; tasks that either lacks are left out.

    Args:
        values: Task to [B, ...].
        rows: Task to int64 [R].
    """
    return {task: values[task][images] for task, images in rows.items() if task in values}


def losses_of_images(
    outputs: Mapping[Task, Tensor],
    rows: Mapping[Task, Tensor],
    labels: Labels,
    tasks: Sequence[Task],
    *,
    weights: Mapping[Task, Tensor],
) -> Tensor:
    """Take the tasks' losses of each image by itself: means and class balance are its own.

    Args:
        outputs: Task to raw output, as ``multi_task_loss`` reads it, [R, C, H, W].
        rows: Task to the images that these are of, int64 [R].
        labels: Of all images and at least these tasks.
        weights: Task to [B, 1, H, W], as for ``weighted_mean``; 1 where missing.

    Returns:
        float32 [T, B] in the order of ``tasks``; 0 with a gradient of 0 for an image without a
        valid pixel, 0 for one that is not in ``rows``.
    """
    targets, shares = of_rows(labels, rows), of_rows(weights, rows)
    found = []
    for task in tasks:
        losses = torch.zeros(len(labels[task]), device=labels[task].device)
        if task in rows:
            each = _each_loss(task, outputs[task], targets[task], shares.get(task))
            losses = losses.index_copy(0, rows[task], each)
        found.append(losses)
    return torch.stack(found)


def _each_loss(task: Task, output: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
    """Loss of each row, [R]."""

    def alone(output_CHW: Tensor, label: Tensor, *weight_1HW: Tensor) -> Tensor:
        weight = weight_1HW[0].unsqueeze(0) if weight_1HW else None
        return MULTI_TASK_LOSSES[task](output_CHW.unsqueeze(0), label.unsqueeze(0), weight)

    each: Tensor = torch.vmap(alone)(output, label, *([] if weight is None else [weight]))
    return each


def mean_over_images(losses_TB: Tensor, labelled_TB: Tensor, weights_TB: Tensor) -> Tensor:
    """Weigh an image of few labelled tasks like one of many; the mean is over all images.

    Σ_i T / |L_i| Σ_{t in L_i} ω_ti ℓ_ti / Σ_i ω_i, where L_i are the labelled tasks of image i, and
    ω_i the mean of ω_ti over them; an image without labels adds 0 and has ω_i = 1.

    Args:
        losses_TB: ℓ, each with its task's factor; finite where a task is not labelled.
        labelled_TB: From :func:`labelled_images`.
        weights_TB: ω, from :func:`image_weights`.

    Returns:
        Scalar; 0 with a gradient of 0 if no image has labels.
    """
    num_labelled = labelled_TB.sum(dim=0)
    shares = torch.where(labelled_TB, weights_TB / num_labelled.clamp_min(1), 0.0)
    of_images = shares.sum(dim=0) + (num_labelled == 0)
    total = len(losses_TB) * (shares * losses_TB).sum()
    return total / of_images.sum().clamp_min(_SMALLEST_COUNT)


def _valid_pixels(label: Tensor, task: Task) -> Tensor:
    """Tell which pixels have a label, bool [B, H·W]."""
    found = label != INVALID_VALUES[TASK_KINDS[task]]
    return (found if found.dim() == 3 else found.any(dim=1)).flatten(1)
