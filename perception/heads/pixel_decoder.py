"""The pixel decoder of iDisc (Piccinelli et al., 2023): a pyramid joined from coarse to fine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from perception.heads.deformable import DeformableEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedPixels:
    """Maps of every level but the coarsest, low to high resolution, all of one width.

    Attributes:
        raw: Each level on its own; scenes are partitioned from these.
        joined: Each level with all coarser ones added; pixels are read from these.
    """

    raw: list[Tensor]
    joined: list[Tensor]


def _smooth(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.GELU(),
    )


class PixelDecoder(nn.Module):
    """y_l = smooth(lateral(e_l) + raw_l + up(y_{l+1})), from the coarsest level to the finest.

    e_l is the level projected to the decoder's width and, with ``num_deformable_layers`` above 0,
    passed through a multi-scale deformable encoder.

    Args:
        in_channels: Channels of each level, low to high resolution.
        width: Channels of everything that comes out; published 256.
        num_deformable_layers: 4 as published; 0 is the plain feature pyramid.
    """

    def __init__(
        self, in_channels: Sequence[int], width: int, *, num_deformable_layers: int = 0
    ) -> None:
        super().__init__()
        self.entries = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(1, width))
            for channels in in_channels
        )
        self.encoder = (
            DeformableEncoder(width, len(in_channels), num_layers=num_deformable_layers)
            if num_deformable_layers
            else None
        )
        self.raw_outputs = nn.ModuleList(_smooth(width, width, 1) for _ in in_channels)
        self.laterals = nn.ModuleList(_smooth(width, width, 1) for _ in in_channels)
        self.smooths = nn.ModuleList(_smooth(width, width, 3) for _ in in_channels)

    def forward(self, maps: list[Tensor]) -> DecodedPixels:
        """Decode levels [B, C, h, w], low to high resolution."""
        levels = [entry(level) for entry, level in zip(self.entries, maps, strict=True)]
        if self.encoder is not None:
            levels = self.encoder(levels)
        raw = [output(level) for output, level in zip(self.raw_outputs, levels, strict=True)]
        joined: list[Tensor] = []
        for i, level in enumerate(levels):
            total = self.laterals[i](level) + raw[i]
            if joined:
                height, width = level.shape[-2:]
                total = total + functional.interpolate(
                    joined[-1], size=(height, width), mode="nearest"
                )
            joined.append(self.smooths[i](total))
        return DecodedPixels(raw=raw[1:], joined=joined[1:])
