"""Two opinions on the labels of an image: where they agree, both are likelier right."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from perception.pairs.spread import angle_deg
from schemas.errors import ConfigError
from schemas.sample import INVALID_VALUES, TASK_KINDS

if TYPE_CHECKING:
    from torch import Tensor

    from schemas.sample import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How far two opinions of a pixel may lie apart and still agree; classes have to be equal.

    Attributes:
        angle_deg: Between normals, degrees.
        ratio: Of the greater depth to the smaller, at least 1.
        probability: Between probabilities.
    """

    angle_deg: float = 15.0
    ratio: float = 1.25
    probability: float = 0.25

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming field, value and allowed range.
        """
        least = {"angle_deg": 0.0, "ratio": 1.0, "probability": 0.0}
        most = {"angle_deg": 180.0, "ratio": math.inf, "probability": 1.0}
        for each in fields(self):
            name, value = each.name, getattr(self, each.name)
            if not least[name] <= value <= most[name]:
                raise ConfigError(
                    f"disagreement limit {name}: wanted a value in [{least[name]}, {most[name]}], "
                    f"found {value}"
                )


def agreed_labels(
    task: Task, labels: Tensor, others: Tensor, limits: Limits
) -> tuple[Tensor, Tensor]:
    """Keep the labels that a second opinion confirms.

    Args:
        labels: The creation weights' labels, a batch in the form of ``Labels``: normals
            [B, 3, H, W], depth and probabilities [B, 1, H, W], classes int64 [B, H, W].
        others: The second opinion, same form.

    Returns:
        ``labels`` where both agree, the task's invalid value elsewhere, also where either is
        invalid; and the share of pixels that agree, float32 [B] in [0, 1].
    """
    agrees = agreeing_pixels(task, labels, others, limits)
    spread = agrees[:, 0] if labels.ndim == 3 else agrees
    kept = torch.where(spread, labels, torch.full_like(labels, INVALID_VALUES[TASK_KINDS[task]]))
    return kept, agrees.float().mean(dim=(1, 2, 3))


def agreeing_pixels(task: Task, labels: Tensor, others: Tensor, limits: Limits) -> Tensor:
    """Tell where two opinions agree; the same whichever is named first.

    Returns:
        bool [B, 1, H, W].
    """
    kind = TASK_KINDS[task]
    both = _has_label(task, labels) & _has_label(task, others)
    if kind == "direction":
        return both & (angle_deg(labels, others, dim=1) <= limits.angle_deg)
    if kind == "distance":
        return both & (
            torch.maximum(labels, others) <= limits.ratio * torch.minimum(labels, others)
        )
    if kind == "classes":
        return both & (labels == others)[:, None]
    return both & ((labels - others).abs() <= limits.probability)


def _has_label(task: Task, labels: Tensor) -> Tensor:
    found = labels != INVALID_VALUES[TASK_KINDS[task]]
    return found[:, None] if found.ndim == 3 else found.any(dim=1, keepdim=True)
