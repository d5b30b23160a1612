"""Depth from the up path of the U-Net: the head of VPD (Zhao et al., 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.adapter import scaled_width

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_LEVELS = 4
_NUM_GROUPS = 16
_NUM_DOUBLINGS = 3
_PUBLISHED_JOINED_WIDTH = 1536
_PUBLISHED_DOUBLING_WIDTH = 32
_PUBLISHED_WIDTH = 192
_SMALLEST_DEPTH_M = 1e-3


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_NUM_GROUPS, channels), channels)


def _halve(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride=2, padding=1)


def _resize(maps_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps_BChw, size=size, mode="bilinear", align_corners=False)


class UpPathFusion(nn.Module):
    """The four maps of the up path at the side of the second lowest.

    The finest is halved twice, the next once, the lowest raised once; joined, projected to 1536.

    Args:
        in_channels: Channels of the maps, low to high resolution.
    """

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        fine, middle = in_channels[3], in_channels[2]
        self.halve_fine = nn.Sequential(
            _halve(fine), _group_norm(fine), nn.ReLU(inplace=True), _halve(fine)
        )
        self.halve_middle = _halve(middle)
        self.project = nn.Sequential(
            nn.Conv2d(sum(in_channels), width, 1), _group_norm(width), nn.ReLU(inplace=True)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Join [B, C, h, w], low to high resolution."""
        lowest, low, middle, fine = maps
        size = (low.shape[-2], low.shape[-1])
        halved = [self.halve_fine(fine), self.halve_middle(middle)]
        joined: Tensor = self.project(torch.cat([*halved, low, _resize(lowest, size)], dim=1))
        return joined


class VpdDepthHead(nn.Module):
    """Depth between 0 and a largest one.

    Args:
        in_channels: Channels of the up path's maps, low to high resolution.
        width_ratio: Widths relative to the published ones.

    Raises:
        ValueError: If there are not four levels.
    """

    def __init__(
        self, in_channels: Sequence[int], *, width_ratio: float, max_depth_m: float
    ) -> None:
        super().__init__()
        if len(in_channels) != NUM_LEVELS:
            raise ValueError(f"wanted {NUM_LEVELS} levels, found widths {tuple(in_channels)}")
        self.max_depth_m = max_depth_m
        width = scaled_width(_PUBLISHED_WIDTH, width_ratio)
        doubling = scaled_width(_PUBLISHED_DOUBLING_WIDTH, width_ratio)
        joined = scaled_width(_PUBLISHED_JOINED_WIDTH, width_ratio)
        self.fusion = UpPathFusion(in_channels, joined)
        layers: list[nn.Module] = []
        for i in range(_NUM_DOUBLINGS):
            source = joined if i == 0 else doubling
            layers += [
                nn.ConvTranspose2d(source, doubling, kernel_size=2, stride=2, bias=False),
                nn.BatchNorm2d(doubling),
                nn.ReLU(inplace=True),
            ]
        self.raise_sides = nn.Sequential(
            *layers,
            nn.Conv2d(doubling, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True))
        self.depth = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, maps: list[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Predict metres [B, 1, *image_size] from the up path's maps, low to high resolution."""
        features = self.smooth(_resize(self.raise_sides(self.fusion(maps)), image_size))
        depth_m: Tensor = self.max_depth_m * torch.sigmoid(self.depth(features))
        return depth_m.clamp_min(_SMALLEST_DEPTH_M)
