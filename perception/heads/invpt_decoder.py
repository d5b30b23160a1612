"""InvPT's decoder: preliminary predictions, then three stages that double the resolution.

Ye & Xu (2022, InvPT). With an encoder of stride 16 the stages have strides 32, 16 and 8 and the
outputs stride 4. Features of all tasks are one tensor [B, T, C, h, w].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from perception.geometry import resized
from perception.heads.invpt_attention import AttentionMessage, CrossTaskBlock
from perception.vit import host_width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.sample import Task

_STAGE_WIDTHS = (576, 288, 144)
_PRELIMINARY_WIDTHS = (1024, 512)
_KV_STRIDES = (2, 4, 8)


@dataclass(frozen=True, kw_only=True, slots=True)
class InvPTWidths:
    """Widths of the decoder.

    Attributes:
        stages: Width of a task's features at each stage, coarse to fine.
        preliminary: Widths of the two convolutions before the preliminary prediction.
    """

    stages: tuple[int, ...]
    preliminary: tuple[int, int]

    @classmethod
    def scaled(cls, width_ratio: float) -> InvPTWidths:
        """The published widths (ratio 1: 576, 288, 144 and 1024, 512), scaled."""
        first, second = (host_width(width, width_ratio) for width in _PRELIMINARY_WIDTHS)
        return cls(
            stages=tuple(host_width(width, width_ratio) for width in _STAGE_WIDTHS),
            preliminary=(first, second),
        )


def conv_norm_relu(
    in_channels: int, out_channels: int, *, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    """3×3 convolution, batch norm, ReLU; the side stays."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size=3,
            padding=dilation,
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Preliminary(nn.Module):
    """A task's first features and its preliminary prediction, joined for the stages."""

    def __init__(self, in_channels: int, widths: InvPTWidths, out_channels: int) -> None:
        super().__init__()
        first, second = widths.preliminary
        self.features = nn.Sequential(
            conv_norm_relu(in_channels, first), conv_norm_relu(first, second)
        )
        self.predict = nn.Conv2d(second, out_channels, kernel_size=1)
        self.join = nn.Conv2d(second + out_channels, widths.stages[0], kernel_size=1)

    def forward(self, maps_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, stages[0], h, w] and prediction [B, out_channels, h, w]."""
        features = self.features(maps_BChw)
        prediction = self.predict(features)
        return self.join(torch.cat([features, prediction], dim=1)), prediction


class UpEmbed(nn.Module):
    """Double the side of every task's features and add what the encoder saw at that scale."""

    def __init__(self, in_channels: int, out_channels: int, num_tasks: int) -> None:
        super().__init__()
        joint_in, joint_out = num_tasks * in_channels, num_tasks * out_channels
        self.num_tasks = num_tasks
        self.convolutions = nn.Sequential(
            conv_norm_relu(joint_in, joint_out, groups=num_tasks, dilation=2),
            conv_norm_relu(joint_out, joint_out, groups=num_tasks, dilation=2),
        )

    def forward(self, features_BTChw: Tensor, skip_BChw: Tensor) -> Tensor:
        """Map [B, T, in, h, w] to [B, T, out, 2h, 2w]; the skip map is the same for all tasks."""
        size = (2 * features_BTChw.shape[-2], 2 * features_BTChw.shape[-1])
        raised = self.convolutions(resized(features_BTChw.flatten(1, 2), size))
        return raised.unflatten(1, (self.num_tasks, -1)) + resized(skip_BChw, size).unsqueeze(1)


class StageMix(nn.Module):
    """What a stage gives to the sum: layer norm over all tasks' channels, a 1×1 map per task.

    Args:
        width: Channels of a task's features at this stage.
        out_channels: Channels of the sum; no map if it is the stage's own width.
    """

    def __init__(self, width: int, out_channels: int, num_tasks: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_tasks * width)
        self.map: nn.Module = nn.Identity()
        if width != out_channels:
            self.map = nn.Conv2d(
                num_tasks * width, num_tasks * out_channels, kernel_size=1, groups=num_tasks
            )

    def forward(self, features_BTChw: Tensor, size: tuple[int, int]) -> Tensor:
        """Map [B, T, C, h, w] to [B, T·out_channels, *size]."""
        normed = self.norm(features_BTChw.flatten(1, 2).movedim(1, -1)).movedim(-1, 1)
        return resized(self.map(normed), size)


class InvPTDecoder(nn.Module):
    """Encoder features at three depths → raw outputs of all tasks.

    The encoder's third quarter feeds a skip that the published decoder computes and never adds; it
    is left out.

    Args:
        out_channels: Task to channels of its raw output.
    """

    def __init__(
        self, in_channels: int, widths: InvPTWidths, out_channels: Mapping[Task, int]
    ) -> None:
        super().__init__()
        self.tasks = tuple(out_channels)
        num_tasks, stages = len(self.tasks), widths.stages
        self.preliminary = nn.ModuleDict(
            {
                str(task): Preliminary(in_channels, widths, channels)
                for task, channels in out_channels.items()
            }
        )
        self.skips = nn.ModuleList(
            [
                nn.Conv2d(in_channels, stages[1], kernel_size=3, padding=1),
                nn.ConvTranspose2d(
                    in_channels, stages[2], 3, stride=2, padding=1, output_padding=1
                ),
            ]
        )
        self.raises = nn.ModuleList(UpEmbed(low, high, num_tasks) for low, high in pairwise(stages))
        self.blocks = nn.ModuleList(
            CrossTaskBlock(width, num_tasks, kv_stride=stride, takes_message=i > 0)
            for i, (width, stride) in enumerate(zip(stages, _KV_STRIDES, strict=True))
        )
        self.mixes = nn.ModuleList(StageMix(width, stages[0], num_tasks) for width in stages)
        joint = num_tasks * stages[0]
        self.finish = conv_norm_relu(joint, joint, groups=num_tasks)
        self.heads = nn.ModuleDict(
            {
                str(task): nn.Conv2d(stages[0], channels, kernel_size=1)
                for task, channels in out_channels.items()
            }
        )

    def forward(
        self, taps: Sequence[Tensor], *, generator: torch.Generator | None = None
    ) -> tuple[dict[Task, Tensor], dict[Task, Tensor]]:
        """Predict.

        Args:
            taps: Encoder features after the first, second and last quarter, [B, C, h, w] each.
            generator: Source of the branches that are dropped in training.

        Returns:
            Final outputs [B, channels, 8⌈h/2⌉, 8⌈w/2⌉], and preliminary ones [B, channels, ⌈h/2⌉,
            ⌈w/2⌉].
        """
        shallow, middle, deep = taps
        base = (-(-deep.shape[-2] // 2), -(-deep.shape[-1] // 2))
        features, preliminary = self._begin(resized(deep, base))
        skips = [skip(tap) for skip, tap in zip(self.skips, (middle, shallow), strict=True)]
        mixed = self._run_stages(features, skips, base=base, generator=generator)
        finished = self.finish(mixed).unflatten(1, (len(self.tasks), -1))
        final = {task: self.heads[task](finished[:, i]) for i, task in enumerate(self.tasks)}
        return final, preliminary

    def _begin(self, deep_BChw: Tensor) -> tuple[Tensor, dict[Task, Tensor]]:
        """Features of all tasks at the first stage, and the preliminary predictions."""
        begun = {task: self.preliminary[task](deep_BChw) for task in self.tasks}
        features = torch.stack([features for features, _ in begun.values()], dim=1)
        return features, {task: prediction for task, (_, prediction) in begun.items()}

    def _run_stages(
        self,
        features: Tensor,
        skips: Sequence[Tensor],
        *,
        base: tuple[int, int],
        generator: torch.Generator | None,
    ) -> Tensor:
        """Sum of what the stages give, [B, T·stages[0], 8h, 8w]."""
        size = (8 * base[0], 8 * base[1])
        message: AttentionMessage | None = None
        given = []
        for i, (block, mix) in enumerate(zip(self.blocks, self.mixes, strict=True)):
            if i > 0:
                features = self.raises[i - 1](features, skips[i - 1])
            features, message = block(features, message, generator=generator)
            given.append(mix(features, size))
        return torch.stack(given).sum(dim=0)
