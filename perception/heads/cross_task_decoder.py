"""TaskDiffusion's decoder: image features and a noised map of all labels → all raw outputs.

Yang et al. (2025). Features of T tasks are one tensor [B, T, C, h, w]; layers with weights of their
own for each task are convolutions with one group a task. N = 4 levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.film import FilmBlock, FilmConv, LevelEmbedding
from perception.geometry import resized
from perception.heads.raised_conv import conv_of_raised
from perception.vit import NUM_TAPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.sample import Task

Interaction = Literal["weights", "concatenation"]
LevelWeights = Literal["sigmoid", "softmax"]

_UPSAMPLING = 4


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """What the decoder reads of an image, whatever the noise; shallow to deep.

    Attributes:
        shared: The same for all tasks, [B, C, h, w] a level.
        by_task: [B, T, C, h, w] a level.
    """

    shared: list[Tensor]
    by_task: list[Tensor]


def _conv_block(
    in_channels: int, out_channels: int, *, groups: int = 1, groups_in: int | None = None
) -> nn.Sequential:
    """3×3 → batch norm → GELU → 1×1.

    Args:
        groups_in: Groups of the first convolution, if not those of the second.
    """
    first = groups if groups_in is None else groups_in
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, groups=first),
        nn.BatchNorm2d(out_channels),
        nn.GELU(),
        nn.Conv2d(out_channels, out_channels, kernel_size=1, groups=groups),
    )


def _raised(maps_BChw: Tensor) -> Tensor:
    """Bilinear, to four times the sides: a quarter of the image's with patches of 16."""
    height, width = maps_BChw.shape[-2:]
    return resized(maps_BChw, (_UPSAMPLING * height, _UPSAMPLING * width))


def _of_raised(block: nn.Sequential, maps_BChw: Tensor) -> Tensor:
    """``block(_raised(maps))`` of a :func:`_conv_block`."""
    conv: nn.Conv2d = block[0]  # type: ignore[assignment]
    others: Tensor = block[1:](conv_of_raised(conv, maps_BChw, _UPSAMPLING))
    return others


class TaskHeads(nn.Module):
    """A 3×3 convolution per task, to its raw output.

    Args:
        channels: Task to channels of its raw output.
    """

    def __init__(self, width: int, channels: Mapping[Task, int]) -> None:
        super().__init__()
        self.convs = nn.ModuleDict(
            {
                str(task): nn.Conv2d(width, count, kernel_size=3, padding=1)
                for task, count in channels.items()
            }
        )

    def forward(self, maps_BKhw: Tensor) -> dict[Task, Tensor]:
        """Map [B, T · width, h, w] to task to [B, channels, h, w]."""
        by_task = maps_BKhw.chunk(len(self.convs), dim=1)
        heads = zip(self.convs.items(), by_task, strict=True)
        return {task: conv(maps) for (task, conv), maps in heads}  # type: ignore[misc]


class TaskExchange(nn.Module):
    """One level: each task reads the features of all, as the noised labels and the image suggest.

    U_t = Σ_p A_tp ⊙ F_p with A in (0, 1) per pixel, followed by a 1×1 convolution per task. With
    one task A is a gate on its own features: without it nothing would read the labels' map.

    Args:
        code_channels: Channels of the labels' map.
        interaction: ``concatenation``: F_t is joined with what A would have been predicted from.
    """

    def __init__(
        self, width: int, code_channels: int, num_tasks: int, *, interaction: Interaction
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.join = nn.Conv2d(width + code_channels, width, kernel_size=1)
        self.blocks = nn.ModuleList(FilmBlock(width, level_width=width) for _ in range(2))
        weighs = interaction == "weights"
        self.weigh = FilmConv(width, num_tasks**2, 3, level_width=width) if weighs else None
        self.leave = FilmConv(
            num_tasks * width * (1 if weighs else 2),
            num_tasks * width,
            1,
            level_width=width,
            groups=num_tasks,
        )

    def forward(
        self, shared_BChw: Tensor, by_task_BTChw: Tensor, code_BZhw: Tensor, level_BE: Tensor
    ) -> Tensor:
        """Return [B, T, C, h, w]."""
        seen = self.join(torch.cat([shared_BChw, code_BZhw], dim=1))
        for block in self.blocks:
            seen = block(seen, level_BE)
        if self.weigh is None:
            joined = torch.cat([seen.unsqueeze(1).expand_as(by_task_BTChw), by_task_BTChw], dim=2)
        else:
            weights = self.weigh(seen, level_BE).sigmoid().unflatten(1, (self.num_tasks, -1))
            joined = torch.einsum("btphw,bpchw->btchw", weights, by_task_BTChw)
        left: Tensor = self.leave(joined.flatten(1, 2), level_BE)
        return left.unflatten(1, (self.num_tasks, -1))


class LevelFusion(nn.Module):
    """F'_t = Σ_i M_ti ⊙ U_ti: every task weighs its levels at each pixel."""

    def __init__(self, width: int, num_tasks: int, *, weights: LevelWeights) -> None:
        super().__init__()
        self.weights = weights
        self.join = FilmConv(
            num_tasks * NUM_TAPS * width, num_tasks * width, 1, level_width=width, groups=num_tasks
        )
        self.weigh = nn.Conv2d(
            num_tasks * width, num_tasks * NUM_TAPS, kernel_size=3, padding=1, groups=num_tasks
        )

    def forward(self, levels: Sequence[Tensor], level_BE: Tensor) -> Tensor:
        """Map four [B, T, C, h, w] to one."""
        stacked = torch.stack(tuple(levels), dim=2)
        joined = self.join(stacked.flatten(1, 3), level_BE)
        raw = self.weigh(functional.gelu(joined)).unflatten(1, stacked.shape[1:3])
        weights = raw.softmax(dim=2) if self.weights == "softmax" else raw.sigmoid()
        return (weights.unsqueeze(3) * stacked).sum(dim=2)


class CrossTaskDecoder(nn.Module):
    """One denoising step for all tasks.

    Args:
        in_channels: Width of the encoder's maps.
        width: C.
        code_channels: Channels of the labels' map.
        channels: Task to channels of its raw output.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        code_channels: int,
        channels: Mapping[Task, int],
        *,
        interaction: Interaction = "weights",
        level_weights: LevelWeights = "sigmoid",
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks = len(channels)
        self.code_channels = code_channels
        self.shrink = nn.ModuleList(
            nn.Conv2d(in_channels, width, kernel_size=1) for _ in range(NUM_TAPS)
        )
        self.branches = nn.ModuleList(
            nn.Sequential(
                _conv_block(width, num_tasks * width, groups=num_tasks, groups_in=1),
                _conv_block(num_tasks * width, num_tasks * width, groups=num_tasks),
            )
            for _ in range(NUM_TAPS)
        )
        self.level = LevelEmbedding(width)
        self.exchanges = nn.ModuleList(
            TaskExchange(width, code_channels, num_tasks, interaction=interaction)
            for _ in range(NUM_TAPS)
        )
        self.fusion = LevelFusion(width, num_tasks, weights=level_weights)
        self.refine = nn.ModuleList(
            FilmBlock(num_tasks * width, level_width=width, groups=num_tasks) for _ in range(3)
        )
        self.heads = TaskHeads(width, channels)

    def read(self, taps: Sequence[Tensor]) -> ImageFeatures:
        """Compute what no noise changes: once per image, however many steps follow.

        Args:
            taps: The encoder's maps [B, in_channels, h, w], shallow to deep.
        """
        shared = [conv(tap) for conv, tap in zip(self.shrink, taps, strict=True)]
        by_task = [
            branch(level).unflatten(1, (self.num_tasks, -1))
            for branch, level in zip(self.branches, shared, strict=True)
        ]
        return ImageFeatures(shared, by_task)

    def forward(
        self, features: ImageFeatures, code_BZhw: Tensor, log_snr_B: Tensor, *, raises: bool = True
    ) -> dict[Task, Tensor]:
        """Predict all labels.

        Args:
            code_BZhw: Noised map of the labels.
            log_snr_B: Its noise level.
            raises: Whether outputs have four times the sides of the features.

        Returns:
            Task to raw output [B, channels, 4h, 4w], or [B, channels, h, w].
        """
        level = self.level(log_snr_B)
        levels = [
            exchange(shared, by_task, code_BZhw, level)
            for exchange, shared, by_task in zip(
                self.exchanges, features.shared, features.by_task, strict=True
            )
        ]
        maps = self.fusion(levels, level).flatten(1, 2)
        for block in self.refine[:2]:
            maps = maps + block(maps, level)
        maps = _raised(maps) if raises else maps
        outputs: dict[Task, Tensor] = self.heads(maps + self.refine[2](maps, level))
        return outputs


class AuxiliaryHeads(nn.Module):
    """Training only: a task's features of all levels, joined and raised → its raw output."""

    def __init__(self, width: int, channels: Mapping[Task, int]) -> None:
        super().__init__()
        num_tasks = len(channels)
        joined, out = num_tasks * NUM_TAPS * width, num_tasks * width
        self.main = _conv_block(joined, out, groups=num_tasks)
        self.side = nn.Conv2d(joined, out, kernel_size=1, groups=num_tasks)
        self.heads = TaskHeads(width, channels)

    def forward(self, by_task: Sequence[Tensor]) -> dict[Task, Tensor]:
        """Map four [B, T, C, h, w] to task to raw output [B, channels, 4h, 4w]."""
        joined = torch.stack(tuple(by_task), dim=2).flatten(1, 3)
        # Published after the raising: the same for a 1×1 convolution, at a sixteenth of the cost.
        side = _raised(self.side(joined))
        outputs: dict[Task, Tensor] = self.heads(_of_raised(self.main, joined) + side)
        return outputs


class PlainDecoder(nn.Module):
    """The baseline without diffusion: all levels joined, per task a 1×1 and two blocks.

    Arguments as of :class:`CrossTaskDecoder`.
    """

    def __init__(self, in_channels: int, width: int, channels: Mapping[Task, int]) -> None:
        super().__init__()
        num_tasks = len(channels)
        out = num_tasks * width
        self.shrink = nn.ModuleList(
            nn.Conv2d(in_channels, width, kernel_size=1) for _ in range(NUM_TAPS)
        )
        self.join = nn.Conv2d(NUM_TAPS * width, out, kernel_size=1)
        self.coarse = _conv_block(out, out, groups=num_tasks)
        self.fine = _conv_block(out, out, groups=num_tasks)
        self.heads = TaskHeads(width, channels)

    def forward(self, taps: Sequence[Tensor]) -> dict[Task, Tensor]:
        """Return task to raw output [B, channels, 4h, 4w]."""
        shared = [conv(tap) for conv, tap in zip(self.shrink, taps, strict=True)]
        maps = self.coarse(self.join(torch.cat(shared, dim=1)))
        outputs: dict[Task, Tensor] = self.heads(_of_raised(self.fine, maps))
        return outputs
