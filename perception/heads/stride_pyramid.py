"""The adapter of methods that read strides 4, 8, 16 and 32: diffusion features at exactly these."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.adapter import AdapterPlan, DiffusionAdapter, scaled_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perception.adapter import PyramidMaps

NUM_STRIDES = 4
_FINEST_STRIDE = 4
_PUBLISHED_WIDTH = 256
_PUBLISHED_WIDEST_BLOCK = 1280
_NORM_EPS = 1e-4


def backbone_width_ratio(block_out_channels: Sequence[int], width_ratio: float | None) -> float:
    """Width relative to the published one: the one asked for, or the backbone's own ratio."""
    return max(block_out_channels) / _PUBLISHED_WIDEST_BLOCK if width_ratio is None else width_ratio


def stride_plan(vae_scale_factor: int, *, width_ratio: float) -> AdapterPlan:
    """Plan maps of one width: three merges (Eq. 9), then Eq. 10 up to stride 4 where needed.

    The last merge has the latent's stride. Stable Diffusion (factor 8) gives strides 32, 16, 8 and,
    by one doubling, 4; a factor of 4 gives 16, 8, 4, to which ``StridePyramid`` adds 32.

    Args:
        vae_scale_factor: Image side / latent side, 4 or 8.
        width_ratio: Relative to the published width of 256.

    Raises:
        ValueError: If the factor is another one.
    """
    if vae_scale_factor not in (4, 8):
        raise ValueError(
            f"wanted a VAE factor of 4 or 8, found {vae_scale_factor}; use method bae with it"
        )
    width = scaled_width(_PUBLISHED_WIDTH, width_ratio)
    num_extra = int(math.log2(vae_scale_factor // _FINEST_STRIDE))
    return AdapterPlan(
        merge_channels=(width,) * 3, extra_channels=(width,) * num_extra, width_ratio=width_ratio
    )


class LowerScale(nn.Module):
    """Eq. 10 downwards: Conv([Down(f), strided Conv(f)]), batch norm, ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.strided = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1)
        self.join = nn.Conv2d(2 * width, width, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(width, eps=_NORM_EPS)

    def forward(self, maps_BChw: Tensor) -> Tensor:
        """Map [B, width, h, w] to [B, width, ⌈h/2⌉, ⌈w/2⌉]."""
        learnt = self.strided(maps_BChw)
        height, width = learnt.shape[-2:]
        plain = functional.interpolate(
            maps_BChw, size=(height, width), mode="bilinear", align_corners=False
        )
        return functional.relu(self.norm(self.join(torch.cat([plain, learnt], dim=1))))


class StridePyramid(nn.Module):
    """Raw diffusion features → maps of one width at strides 32, 16, 8, 4 of the image.

    Args:
        level_channels: Channel counts of the raw maps of each level, low to high resolution.
        plan: From :func:`stride_plan`.
        use_spectral_norm: Spectral norm in the merges, as published.
    """

    def __init__(
        self,
        level_channels: Sequence[Sequence[int]],
        plan: AdapterPlan,
        *,
        use_spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        self.width = plan.channels[0]
        self.adapter = DiffusionAdapter(level_channels, plan, use_spectral_norm=use_spectral_norm)
        self.lower = nn.ModuleList(
            LowerScale(self.width) for _ in range(NUM_STRIDES - len(plan.channels))
        )

    def forward(self, maps: PyramidMaps) -> list[Tensor]:
        """Return four maps [B, width, h, w], low to high resolution."""
        found: list[Tensor] = self.adapter(maps)
        for lower in self.lower:
            found.insert(0, lower(found[0]))
        return found
