"""Segmentation from a pyramid: FPN neck (Lin et al., 2017), then Semantic FPN (Kirillov, 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

_DROPOUT = 0.1


def _raise_linear(maps_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps_BChw, size=size, mode="bilinear", align_corners=False)


def _smooth(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class FeaturePyramidNeck(nn.Module):
    """Top-down pyramid: 1×1 laterals, coarser levels added by nearest up-sampling, 3×3 outputs.

    Args:
        in_channels: Channels of each level, low to high resolution.
    """

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(each, width, 1) for each in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in in_channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map levels [B, C, h, w] to levels [B, width, h, w]."""
        joined = [self.laterals[0](maps[0])]
        for lateral, level in zip(list(self.laterals)[1:], maps[1:], strict=True):
            size = (level.shape[-2], level.shape[-1])
            raised = functional.interpolate(joined[-1], size=size, mode="nearest")
            joined.append(lateral(level) + raised)
        return [output(each) for output, each in zip(self.outputs, joined, strict=True)]


class DoublingChain(nn.Module):
    """A level convolved and doubled until it has the side of the finest level.

    Args:
        num_doublings: Convolutions, each with a doubling after it; 0 means a convolution alone.
    """

    def __init__(self, width: int, num_doublings: int) -> None:
        super().__init__()
        self.smooths = nn.ModuleList(_smooth(width) for _ in range(max(num_doublings, 1)))

    def forward(self, level_BChw: Tensor, finer_sizes: list[tuple[int, int]]) -> Tensor:
        """Raise to each of the sizes in turn: an odd side is not an exact double."""
        for i, smooth in enumerate(self.smooths):
            level_BChw = smooth(level_BChw)
            if finer_sizes:
                level_BChw = _raise_linear(level_BChw, finer_sizes[i])
        return level_BChw


class SemanticFpnHead(nn.Module):
    """Sum of the levels, each raised to the side of the finest by a chain of its own.

    Batch norm instead of the
    published synchronised one: ranks average their buffers after every step.

    Args:
        num_levels: Number of levels, low to high resolution.
    """

    def __init__(self, num_levels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.chains = nn.ModuleList(
            DoublingChain(width, num_levels - 1 - i) for i in range(num_levels)
        )
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.classify = nn.Conv2d(width, num_classes, kernel_size=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return logits [B, num_classes, h, w] with the side of the last level."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        raised = [chain(maps[i], sizes[i + 1 :]) for i, chain in enumerate(self.chains)]
        logits: Tensor = self.classify(self.dropout(torch.stack(raised).sum(dim=0)))
        return logits
