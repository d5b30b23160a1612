"""TaskDiffusion's label encoder: the labels of all tasks become one map.

Yang et al. (2025). A task has C/4 channels; ignored pixels have codes of their own, so that an
image without labels of a task is coded as ignored everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.geometry import resized
from schemas.sample import TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.sample import Task

_SHARES = 4
_UNMIXED: Task = "saliency"
_SMALLEST_SHARE = 1e-6


def code_channels(tasks: Sequence[Task], width: int, *, encodes_jointly: bool = True) -> int:
    """Channels of the map: C, and C/4 more with saliency; without the joint layer C/4 a task.

    Args:
        width: C, a multiple of 4.
    """
    own = width // _SHARES
    mixed = [task for task in tasks if task != _UNMIXED]
    joined = width if mixed and encodes_jointly else own * len(mixed)
    return joined + own * (_UNMIXED in tasks)


def class_rows(label: Tensor, task: Task, num_classes: int, size: tuple[int, int]) -> Tensor:
    """Rows of a table at ``size``, by the nearest pixel: ids, and ``num_classes`` where ignored.

    Args:
        label: Class ids [B, H, W], or probabilities [B, 1, H, W] of class 1 of two.

    Returns:
        int64 [B, *size].
    """
    if TASK_KINDS[task] == "classes":
        rows = torch.where(label < num_classes, label, num_classes).unsqueeze(1)
    else:
        rows = torch.where(label < 0, num_classes, (label >= 0.5).long())
    found = functional.interpolate(rows.float(), size=size, mode="nearest-exact")
    return found.squeeze(1).long()


def mean_of_valid(label: Tensor, task: Task, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize a label by the mean of its valid pixels (bilinear weights).

    Args:
        label: [B, c, H, W] of a direction, distance or probability.

    Returns:
        Values [B, c, *size], 0 where no pixel is valid, and the share of valid pixels
        [B, 1, *size].
    """
    kind = TASK_KINDS[task]
    if kind == "direction":
        valid = (label != 0).any(dim=1, keepdim=True)
    else:
        valid = label > 0 if kind == "distance" else label >= 0
    share = resized(valid.to(label.dtype), size)
    summed = resized(torch.where(valid, label, 0), size)
    return summed / share.clamp_min(_SMALLEST_SHARE), share


class ClassCode(nn.Module):
    """A table with a row for each class and one for ignored pixels."""

    def __init__(self, task: Task, num_classes: int, channels: int) -> None:
        super().__init__()
        self.task: Task = task
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, channels)

    def forward(self, label: Tensor, size: tuple[int, int]) -> Tensor:
        """Return [B, channels, *size]."""
        rows = class_rows(label, self.task, self.num_classes, size)
        coded: Tensor = self.table(rows).movedim(3, 1)
        return coded


class ValueCode(nn.Module):
    """A 1×1 convolution of the value, and a vector for ignored pixels, mixed by their shares."""

    def __init__(self, task: Task, in_channels: int, channels: int) -> None:
        super().__init__()
        self.task: Task = task
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=1)
        self.ignored = nn.Parameter(torch.randn(channels))

    def forward(self, label: Tensor, size: tuple[int, int]) -> Tensor:
        """Return [B, channels, *size]."""
        value, share = mean_of_valid(label, self.task, size)
        coded: Tensor = share * self.conv(value) + (1 - share) * self.ignored.view(1, -1, 1, 1)
        return coded


class CrossTaskLabelEncoder(nn.Module):
    """Labels of all tasks → z_0 = scale · (2 sigmoid(codes) - 1), so |z_0| ≤ scale.

    The codes are mixed by a 1×1 convolution; that of saliency is in front of them, unmixed.

    Args:
        channels: Task to channels of its raw output; for class ids, the number of classes.
        width: C; a task's code has C/4 channels.
        encodes_jointly: Whether the codes are mixed.

    Raises:
        ValueError: If 4 does not divide the width.
    """

    def __init__(
        self,
        channels: Mapping[Task, int],
        width: int,
        *,
        scale: float,
        encodes_jointly: bool = True,
    ) -> None:
        super().__init__()
        if width % _SHARES:
            raise ValueError(f"wanted a width that 4 divides, found {width}; round it")
        self.scale = scale
        own = width // _SHARES
        self.codes = nn.ModuleDict(
            {str(task): _code(task, count, own) for task, count in channels.items()}
        )
        self.mixed = [task for task in channels if task != _UNMIXED]
        self.mix = (
            nn.Conv2d(own * len(self.mixed), width, kernel_size=1)
            if self.mixed and encodes_jointly
            else None
        )

    def forward(self, labels: Mapping[Task, Tensor], size: tuple[int, int]) -> Tensor:
        """Code labels.

        Args:
            labels: As ``perception.methods.protocol.Labels``, of all tasks and any size.

        Returns:
            float32 [B, code channels, *size].
        """
        parts = [self.codes[_UNMIXED](labels[_UNMIXED], size)] if _UNMIXED in self.codes else []
        if self.mixed:
            mixed = torch.cat([self.codes[task](labels[task], size) for task in self.mixed], dim=1)
            parts.append(mixed if self.mix is None else self.mix(mixed))
        return self.scale * (2 * torch.cat(parts, dim=1).sigmoid() - 1)


def _code(task: Task, num_channels: int, width: int) -> nn.Module:
    if TASK_KINDS[task] == "classes":
        return ClassCode(task, num_channels, width)
    if task == _UNMIXED:
        return ClassCode(task, 2, width)
    return ValueCode(task, num_channels, width)
