"""DiffusionMTL's initial predictions: a ResNet's maps joined, then residual blocks for each task.

Ye & Xu (2024, DiffusionMTL), equations 1 and 2. W: width of all task features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.geometry import resized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.sample import Task


class BasicBlock(nn.Module):
    """ResNet's block of two 3 x 3 convolutions, of one width; the result is not negative."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, W, h, w] to the same shape."""
        return functional.relu(maps + self.layers(maps))


class JoinedStages(nn.Module):
    """Maps of all stages at half the side of the finest, joined to W channels.

    Args:
        widths: Channels of the stages.
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.join = nn.Conv2d(sum(widths), width, kernel_size=3, padding=1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Map stages, the finest first, to [B, W, h, w], h and w half of its sides."""
        height, width = (max(1, side // 2) for side in stages[0].shape[-2:])
        joined: Tensor = self.join(
            torch.cat([resized(stage, (height, width)) for stage in stages], dim=1)
        )
        return joined


class InitialDecoder(nn.Module):
    """Each task's features F_init (Eq. 1) and raw outputs P_init (Eq. 2).

    Args:
        channels: Task to the channels of its raw output.
        num_blocks: Residual blocks of a task.
    """

    def __init__(self, channels: Mapping[Task, int], width: int, num_blocks: int) -> None:
        super().__init__()
        self.tasks = tuple(channels)
        self.features = nn.ModuleDict(
            {
                task: nn.Sequential(*[BasicBlock(width) for _ in range(num_blocks)])
                for task in channels
            }
        )
        self.outputs = nn.ModuleDict(
            {task: nn.Conv2d(width, count, kernel_size=1) for task, count in channels.items()}
        )

    def forward(self, embedded: Tensor) -> tuple[dict[Task, Tensor], dict[Task, Tensor]]:
        """Map [B, W, h, w] to features of that shape, at least 0, and to outputs [B, C, h, w]."""
        features = {task: self.features[task](embedded) for task in self.tasks}
        outputs = {task: self.outputs[task](found) for task, found in features.items()}
        return features, outputs
