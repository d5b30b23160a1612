"""TaskPrompter's decoder: scores of the prompts pick each task's features at four depths.

Ye & Xu (2023, TaskPrompter). Features of all tasks are one tensor [B, T, C, h, w]; layers with
weights of their own for each task are convolutions with one group a task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from perception.geometry import resized
from perception.vit import NUM_TAPS, host_width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perception.heads.task_prompts import PromptScores, PromptTap
    from schemas.sample import Task

_UPSAMPLING = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskPrompterPlan:
    """What the published configurations of the two data sets differ in.

    Attributes:
        branch_width: Channels of the spatial and of the channel branch (e in the paper).
        task_width: Channels of a task's features (d).
        num_windows: Windows of the channel attention, a square number.
        reweights: Whether tasks exchange features, weighted by their prompts' scores.
        grid: Patch grid of the training images.
    """

    branch_width: int
    task_width: int
    num_windows: int
    reweights: bool
    grid: tuple[int, int]

    @classmethod
    def pascal(cls, width_ratio: float) -> TaskPrompterPlan:
        """PASCAL-Context at 512 x 512: e = 300, d = 350, one window, tasks exchange features."""
        return cls(
            branch_width=host_width(300, width_ratio),
            task_width=host_width(350, width_ratio),
            num_windows=1,
            reweights=True,
            grid=_scaled_grid(32, 32, width_ratio),
        )

    @classmethod
    def nyud(cls, width_ratio: float) -> TaskPrompterPlan:
        """NYUD at 448 x 576: e = d = 768, 16 windows, no exchange."""
        return cls(
            branch_width=host_width(768, width_ratio),
            task_width=host_width(768, width_ratio),
            num_windows=16,
            reweights=False,
            grid=_scaled_grid(28, 36, width_ratio),
        )


def _scaled_grid(rows: int, columns: int, width_ratio: float) -> tuple[int, int]:
    """Small models see small images: a grid of 8 x 8 at ratio 0.1."""
    if width_ratio == 1:
        return rows, columns
    side = max(8, round(math.sqrt(rows * columns) * width_ratio))
    return side, side


def spread_windows(scores_BMTC: Tensor, size: tuple[int, int]) -> Tensor:
    """Lay scores by window out over the image plane: [B, T, C, *size]."""
    cuts = math.isqrt(scores_BMTC.shape[1])
    windows = scores_BMTC.permute(0, 2, 3, 1).unflatten(3, (cuts, cuts))
    rows, columns = size[0] // cuts, size[1] // cuts
    return windows.repeat_interleave(rows, dim=3).repeat_interleave(columns, dim=4)


def _task_conv(
    in_channels: int, out_channels: int, num_tasks: int, *, kernel: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Convolve every task with weights of its own."""
    return nn.Conv2d(
        num_tasks * in_channels,
        num_tasks * out_channels,
        kernel,
        padding=kernel // 2,
        groups=num_tasks,
        bias=bias,
    )


class LevelReader(nn.Module):
    """One depth: spatial and channel scores each scale the patches, and are joined per task."""

    def __init__(self, in_channels: int, plan: TaskPrompterPlan, num_tasks: int) -> None:
        super().__init__()
        branch, width = plan.branch_width, plan.task_width
        self.num_tasks = num_tasks
        self.spatial = _task_conv(in_channels, branch, num_tasks)
        self.channel = _task_conv(in_channels, branch, num_tasks)
        self.join = nn.Sequential(
            _task_conv(2 * branch, width, num_tasks),
            _task_conv(width, width, num_tasks, kernel=3, bias=False),
            nn.BatchNorm2d(num_tasks * width),
            nn.GELU(),
            _task_conv(width, width, num_tasks),
        )

    def forward(self, patches_BChw: Tensor, scores: PromptScores) -> Tensor:
        """Return features [B, T, width, h, w]."""
        size = (patches_BChw.shape[-2], patches_BChw.shape[-1])
        read = patches_BChw.unsqueeze(1)
        num_heads = scores.spatial.shape[1]
        # A head's score map scales the group of channels that the head attends in.
        heads = scores.spatial.transpose(1, 2).unsqueeze(3)
        spatial = (read.unflatten(2, (num_heads, -1)) * heads).flatten(2, 3) + read
        channel = read * spread_windows(scores.channel, size) + read
        branches = [
            convolve(branch.flatten(1, 2)).unflatten(1, (self.num_tasks, -1))
            for convolve, branch in ((self.spatial, spatial), (self.channel, channel))
        ]
        joined: Tensor = self.join(torch.cat(branches, dim=2).flatten(1, 2))
        return joined.unflatten(1, (self.num_tasks, -1))


class CrossTaskExchange(nn.Module):
    """Every task's features become a sum over all tasks', weighted by the prompts' scores."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(num_heads, num_heads, kernel_size=1),
            nn.GELU(),
            nn.Conv2d(num_heads, 1, kernel_size=1),
        )

    def forward(self, features_BTChw: Tensor, scores: PromptScores) -> Tensor:
        """Map [B, T, C, h, w] to the same shape."""
        weights_BTT = self.weigh(scores.prompts).squeeze(1)
        mixed = weights_BTT @ features_BTChw.flatten(2)
        return mixed.view_as(features_BTChw)


class TaskPrompterDecoder(nn.Module):
    """Patches and scores at four depths → raw outputs of all tasks.

    Args:
        out_channels: Task to channels of its raw output.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int,
        plan: TaskPrompterPlan,
        out_channels: Mapping[Task, int],
    ) -> None:
        super().__init__()
        self.tasks = tuple(out_channels)
        num_tasks, width = len(self.tasks), plan.task_width
        self.levels = nn.ModuleList(
            LevelReader(in_channels, plan, num_tasks) for _ in range(NUM_TAPS)
        )
        self.exchanges = nn.ModuleList(
            CrossTaskExchange(num_heads) for _ in range(NUM_TAPS if plan.reweights else 0)
        )
        self.finish = nn.Sequential(
            _task_conv(width, width, num_tasks, kernel=3, bias=False),
            nn.BatchNorm2d(num_tasks * width),
            nn.GELU(),
        )
        self.heads = nn.ModuleDict(
            {
                str(task): nn.Conv2d(width, channels, kernel_size=1)
                for task, channels in out_channels.items()
            }
        )

    def forward(self, taps: Sequence[PromptTap]) -> dict[Task, Tensor]:
        """Return task to raw output [B, channels, 4h, 4w]."""
        levels = [
            level(tap.patches, tap.scores) for level, tap in zip(self.levels, taps, strict=True)
        ]
        if self.exchanges:
            levels = [
                exchange(features, tap.scores)
                for exchange, features, tap in zip(self.exchanges, levels, taps, strict=True)
            ]
        summed = torch.stack(levels).sum(dim=0).flatten(1, 2)
        size = (_UPSAMPLING * summed.shape[-2], _UPSAMPLING * summed.shape[-1])
        finished = self.finish(resized(summed, size)).unflatten(1, (len(self.tasks), -1))
        return {task: self.heads[task](finished[:, i]) for i, task in enumerate(self.tasks)}
