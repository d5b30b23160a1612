"""Diffusion features join an encoder's: merged by Eq. 9, brought to its scale by Eq. 10, added."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.adapter import AdapterPlan, DiffusionAdapter, PyramidMaps, scaled_width
from perception.geometry import resized

if TYPE_CHECKING:
    from collections.abc import Sequence

_MERGE_CHANNELS = (1024, 512, 256)
_NUM_LEVELS = 4


class HalvedScale(nn.Module):
    """Eq. 10 toward a lower resolution: Conv([Down(f), strided Conv(f)])."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.learnt = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.joined = nn.Conv2d(2 * channels, channels, kernel_size=3, padding=1)

    def forward(self, maps_BChw: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, C, ⌈h/2⌉, ⌈w/2⌉]."""
        learnt = self.learnt(maps_BChw)
        lowered = functional.adaptive_avg_pool2d(maps_BChw, learnt.shape[-2:])
        halved: Tensor = self.joined(torch.cat([lowered, learnt], dim=1))
        return halved


class DoubledScale(nn.Module):
    """Eq. 10 toward a higher resolution: Conv([Up(f), Deconv(f)])."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.learnt = nn.Sequential(
            nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.joined = nn.Conv2d(2 * channels, channels, kernel_size=3, padding=1)

    def forward(self, maps_BChw: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, C, 2h, 2w]."""
        learnt = self.learnt(maps_BChw)
        raised = resized(maps_BChw, (learnt.shape[-2], learnt.shape[-1]))
        doubled: Tensor = self.joined(torch.cat([raised, learnt], dim=1))
        return doubled


class DiffusionMerge(nn.Module):
    """Raw diffusion maps → three merged maps (Eq. 9) → each at the encoder's scale (Eq. 10).

    Diff-2-in-1 (Zheng et al., 2024, appendix) adds the results to the encoder's features and does
    not give their widths; here the merged maps have 1024, 512 and 256 channels at width ratio 1. At
    factor 8 their strides are 32, 16 and 8.

    Args:
        level_channels: Channel counts of the raw maps of each level, low to high resolution.
        width_ratio: Width relative to those of the published methods.
        starts_at_zero: The untrained merge gives zeros, so that a pretrained encoder's features
            start unchanged.
        use_spectral_norm: Spectral norm in the Eq. 9 merges.

    Raises:
        ValueError: If there are not four levels.
    """

    def __init__(
        self,
        level_channels: Sequence[Sequence[int]],
        out_channels: int,
        *,
        patch_size: int,
        vae_scale_factor: int,
        width_ratio: float,
        starts_at_zero: bool,
        use_spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        if len(level_channels) != _NUM_LEVELS:
            raise ValueError(
                f"wanted a U-Net of {_NUM_LEVELS} levels, found {len(level_channels)}; use a "
                "Stable Diffusion v1 or v2 backbone"
            )
        widths = tuple(scaled_width(width, width_ratio) for width in _MERGE_CHANNELS)
        plan = AdapterPlan(merge_channels=widths, extra_channels=(), width_ratio=width_ratio)
        self.adapter = DiffusionAdapter(level_channels, plan, use_spectral_norm=use_spectral_norm)
        self.scales = nn.ModuleList(
            _scale_steps(width, patch_size / (vae_scale_factor << (len(widths) - 1 - i)))
            for i, width in enumerate(widths)
        )
        self.projections = nn.ModuleList(
            nn.Conv2d(width, out_channels, kernel_size=1) for width in widths
        )
        if starts_at_zero:
            for projection in self.projections:
                nn.init.zeros_(projection.weight)  # type: ignore[arg-type]
                nn.init.zeros_(projection.bias)  # type: ignore[arg-type]

    def summed(self, maps: PyramidMaps, grid: tuple[int, int]) -> Tensor:
        """Return the sum of the three maps."""
        return torch.stack(self(maps, grid)).sum(dim=0)

    def forward(self, maps: PyramidMaps, grid: tuple[int, int]) -> list[Tensor]:
        """Return three maps [B, out_channels, *grid], from low- to high-resolution features."""
        merged = self.adapter(maps)
        return [
            resized(project(scale(each)), grid)
            for each, scale, project in zip(merged, self.scales, self.projections, strict=True)
        ]


def _scale_steps(channels: int, ratio: float) -> nn.Sequential:
    """Eq. 10 as often as the stride must double (ratio above 1) or halve."""
    steps = round(math.log2(ratio))
    step = HalvedScale if steps > 0 else DoubledScale
    return nn.Sequential(*[step(channels) for _ in range(abs(steps))])
