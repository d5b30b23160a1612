"""Several samples of a map become one prediction, and their spread its reliability."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from schemas.errors import ConfigError
from schemas.sample import IGNORE_ID, TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from schemas.sample import Task, TaskKind

_CLOSE_RATIO = 1.25
_SMALLEST_M = 1e-6


def mean_of_samples(
    task: Task, samples: Sequence[Tensor], *, least_error_deg: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Average samples of a map.

    Normals: the normalised mean; expected error: the mean angle of the samples to it. Depth: the
    geometric mean; confidence: the share of samples within a factor of 1.25 of it. Classes: the
    most frequent, of several the lowest; confidence: its share. Probabilities: the mean p;
    confidence: max(p, 1 - p).

    Args:
        samples: Maps of the same images, each as a method predicts them: normals [B, 3, H, W], unit
            vectors; depth [B, 1, H, W], metres; classes int64 [B, H, W]; probabilities
            [B, 1, H, W]. Their precision is the spread's: one sample looks perfectly sure.
        least_error_deg: Expected error of normals is at least this, degrees; what one sample errs
            by, since samples may err together.

    Returns:
        The mean map, and float32 [B, 1, H, W]: expected error in degrees for normals, else a
        confidence in [0, 1].

    Raises:
        ConfigError: If there is no sample.
    """
    if not samples:
        raise ConfigError(f"samples of {task}: wanted at least one, found none")
    kind = TASK_KINDS[task]
    mean, reliability = _MEANS[kind](torch.stack(list(samples)))
    if kind == "direction":
        reliability = reliability.clamp_min(least_error_deg)
    return mean, reliability


def angle_deg(left: Tensor, right: Tensor, *, dim: int) -> Tensor:
    """Angle between vectors of about unit length, exact for small ones; 90 to a zero vector.

    2 atan2(‖a - b‖, ‖a + b‖), Kahan; the arc cosine of a rounded product is off by up to 0.03.

    Returns:
        Degrees in [0, 180], with ``dim`` of size 1.
    """
    apart = (left - right).norm(dim=dim, keepdim=True)
    along = (left + right).norm(dim=dim, keepdim=True)
    return torch.rad2deg(2 * torch.atan2(apart, along))


def _mean_direction(samples: Tensor) -> tuple[Tensor, Tensor]:
    mean = samples.mean(dim=0)
    # Opposite samples cancel: no direction (the invalid value), 90 degrees from each of them.
    cancels = mean.norm(dim=1, keepdim=True) < 1e-6
    direction = functional.normalize(mean, dim=1).masked_fill(cancels, 0)
    return direction, angle_deg(samples, direction, dim=2).mean(dim=0)


def _mean_distance(samples: Tensor) -> tuple[Tensor, Tensor]:
    logs = samples.clamp_min(_SMALLEST_M).log()
    mean = logs.mean(dim=0)
    is_close = (logs - mean).abs() <= math.log(_CLOSE_RATIO)
    return mean.exp(), is_close.float().mean(dim=0)


def _most_frequent_class(samples: Tensor) -> tuple[Tensor, Tensor]:
    votes = (samples[:, None] == samples).sum(dim=1)
    most = votes.amax(dim=0)
    winner = torch.where(votes == most, samples, IGNORE_ID).amin(dim=0)
    return winner, (most / len(samples)).unsqueeze(1)


def _mean_probability(samples: Tensor) -> tuple[Tensor, Tensor]:
    mean = samples.mean(dim=0)
    return mean, torch.maximum(mean, 1 - mean)


_MEANS: dict[TaskKind, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "direction": _mean_direction,
    "distance": _mean_distance,
    "classes": _most_frequent_class,
    "probability": _mean_probability,
}
