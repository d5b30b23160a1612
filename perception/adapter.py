"""The adapter: raw diffusion features become the pyramid of feature maps that a task head reads.

Shape legend: B images, C channels, h × w the side of a map. Levels run from low to high resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

PyramidMaps = Sequence[Sequence[Tensor]]
"""Raw maps by level, low to high resolution; all maps of a level have the same side."""

_PUBLISHED_MERGE_CHANNELS = (2048, 176, 64)
_PUBLISHED_EXTRA_CHANNELS = (40, 24)
_PUBLISHED_WIDEST_BLOCK = 1280
_SMALLEST_WIDTH = 32
_NORM_EPS = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterPlan:
    """Widths of the adapter's maps, low to high resolution, side doubling from map to map.

    Attributes:
        merge_channels: Widths of the Eq. 9 maps; the last one has the side of the latent.
        extra_channels: Widths of the Eq. 10 maps, finer than the latent; may be empty.
        width_ratio: Width relative to the published plan for Stable Diffusion v1; heads scale by
            it.
    """

    merge_channels: tuple[int, ...]
    extra_channels: tuple[int, ...]
    width_ratio: float

    @property
    def channels(self) -> tuple[int, ...]:
        """Widths of all maps, low to high resolution."""
        return self.merge_channels + self.extra_channels

    @property
    def num_refinements(self) -> int:
        """Doublings from the latent's side to the image's side: log2 of the VAE's factor."""
        return len(self.extra_channels) + 1


def scaled_width(published: int, width_ratio: float) -> int:
    """Scale a published width, to a multiple of 8 and at least min(published, 32).

    The widths of the papers (all multiples of 8) come back unchanged at ratio 1.
    """
    return max(8 * round(published * width_ratio / 8), min(published, _SMALLEST_WIDTH))


def bae_channel_plan(
    block_out_channels: Sequence[int], vae_scale_factor: int, *, width_ratio: float | None = None
) -> AdapterPlan:
    """Derive the channel plan for Bae's decoder from the backbone.

    Stable Diffusion v1 (320, 640, 1280, 1280; factor 8) gives the published 2048, 176, 64, 40, 24
    at strides 32, 16, 8, 4, 2. Other backbones get these widths scaled by their widest block.

    Args:
        block_out_channels: Widths of the U-Net's four levels, fine to coarse.
        vae_scale_factor: Image side / latent side; a power of two from 2 to 8.
        width_ratio: Replaces the ratio derived from the widest block.

    Raises:
        ValueError: If there are not four levels, or the factor is not 2, 4 or 8.
    """
    if len(block_out_channels) != 4:
        raise ValueError(
            f"wanted a U-Net of 4 levels, found widths {tuple(block_out_channels)}; "
            "write an AdapterPlan"
        )
    if vae_scale_factor not in (2, 4, 8):
        raise ValueError(
            f"wanted a VAE factor of 2, 4 or 8, found {vae_scale_factor}; write an AdapterPlan"
        )
    ratio = (
        max(block_out_channels) / _PUBLISHED_WIDEST_BLOCK if width_ratio is None else width_ratio
    )
    num_extra = int(math.log2(vae_scale_factor)) - 1
    return AdapterPlan(
        merge_channels=tuple(scaled_width(width, ratio) for width in _PUBLISHED_MERGE_CHANNELS),
        extra_channels=tuple(
            scaled_width(width, ratio) for width in _PUBLISHED_EXTRA_CHANNELS[:num_extra]
        ),
        width_ratio=ratio,
    )


def _resize_bilinear(maps_BChw: Tensor, like_BChw: Tensor) -> Tensor:
    """Resize to the side of ``like_BChw`` (bilinear, pixel centres)."""
    return functional.interpolate(
        maps_BChw, size=like_BChw.shape[-2:], mode="bilinear", align_corners=False
    )


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm as published in the adapter: no scale and shift of its own, eps 1e-4."""
    return nn.BatchNorm2d(channels, eps=_NORM_EPS, momentum=0.1, affine=False)


class LevelProjection(nn.Module):
    """One level's raw maps, joined and projected by a 1×1 convolution."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(sum(in_channels), out_channels, kernel_size=1, bias=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the level to [B, out_channels, h, w] in the type of the weights.

        The frozen backbone may run in half precision while the adapter learns in float32.
        """
        projected: Tensor = self.conv(torch.cat(tuple(maps), dim=1).to(self.conv.weight.dtype))
        return projected


class SegBlock(nn.Module):
    """Residual block of two pre-activated 3×3 convolutions: the "Conv" of Eq. 9.

    Both branches read ReLU(BN(x)): the reference computes the shortcut after its in-place ReLU.
    Batch norm has no parameters of its own; in training it needs more than one value per channel,
    so a batch of one image is fine as long as its map has more than one pixel.

    Args:
        use_spectral_norm: Divide each kernel by its largest singular value (one power iteration a
            training step), as published.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, use_spectral_norm: bool = True
    ) -> None:
        super().__init__()

        def conv(width: int, kernel: int) -> nn.Module:
            layer = nn.Conv2d(width, out_channels, kernel, padding=kernel // 2)
            return spectral_norm(layer, eps=_NORM_EPS) if use_spectral_norm else layer

        self.norm_in = _batch_norm(in_channels)
        self.conv_in = conv(in_channels, 3)
        self.norm_out = _batch_norm(out_channels)
        self.conv_out = conv(out_channels, 3)
        self.shortcut = conv(in_channels, 1)

    def forward(self, maps_BChw: Tensor) -> Tensor:
        """Map [B, in_channels, h, w] to [B, out_channels, h, w]."""
        active = functional.relu(self.norm_in(maps_BChw))
        hidden = functional.relu(self.norm_out(self.conv_in(active)))
        residual: Tensor = self.conv_out(hidden) + self.shortcut(active)
        return residual


class ExtraScale(nn.Module):
    """The "Deconv" of Eq. 10: a learnt doubling of the side, then batch norm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(
            in_channels, out_channels, kernel_size=2, stride=2, bias=False
        )
        self.norm = _batch_norm(out_channels)

    def forward(self, maps_BChw: Tensor) -> Tensor:
        """Map [B, in_channels, h, w] to [B, out_channels, 2h, 2w]."""
        doubled: Tensor = self.norm(self.deconv(maps_BChw))
        return doubled


class DiffusionAdapter(nn.Module):
    """Raw groups → 1×1 projections → top-down merges (Eq. 9) → scales the U-Net lacks (Eq. 10).

    With the published plan this is the adapter of Diff-2-in-1 (Zheng et al., 2024) for the decoder
    of Bae et al. (2021). Of the L raw levels each but the finest is up-sampled once, so there are
    L - 1 merged maps; the finest level joins the last of them. The published order is up-sample,
    then project; both are linear and act on different axes, so projecting first gives the same map
    at a quarter of the cost.

    Args:
        level_channels: Channel counts of the raw maps of each level, low to high resolution.
        plan: Output widths; needs one merge width fewer than there are levels.
        use_spectral_norm: Spectral norm in the merges, as published.

    Raises:
        ValueError: If plan and levels do not fit.
    """

    def __init__(
        self,
        level_channels: Sequence[Sequence[int]],
        plan: AdapterPlan,
        *,
        use_spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        if len(level_channels) != len(plan.merge_channels) + 1:
            raise ValueError(
                f"wanted {len(plan.merge_channels) + 1} levels for {plan.merge_channels}, found "
                f" {len(level_channels)}; derive the plan from the same backbone"
            )
        self.plan = plan
        widths = plan.merge_channels
        finest = widths[-1]
        projected = (*widths, finest)
        self.projections = nn.ModuleList(
            LevelProjection(channels, width)
            for channels, width in zip(level_channels, projected, strict=True)
        )
        merge_inputs = [(low + high, high) for low, high in pairwise(projected)]
        self.merges = nn.ModuleList(
            SegBlock(joined, out, use_spectral_norm=use_spectral_norm)
            for joined, out in merge_inputs
        )
        self.extra_norm = _batch_norm(finest)
        sources = (finest, *(width + finest for width in plan.extra_channels[:-1]))
        self.extra_scales = nn.ModuleList(
            ExtraScale(source, width)
            for source, width in zip(sources, plan.extra_channels, strict=False)
        )

    def forward(self, maps: PyramidMaps) -> list[Tensor]:
        """Turn the raw pyramid into the plan's maps.

        Args:
            maps: Raw maps by level, low to high resolution, float [B, C, h, w].

        Returns:
            One map per width of ``plan.channels``, low to high resolution, each with twice the side
            of the one before.

        Raises:
            ValueError: If the number of levels is not the one that the adapter was made for.
        """
        if len(maps) != len(self.projections):
            raise ValueError(
                f"wanted {len(self.projections)} levels of raw maps, found {len(maps)}; "
                "use the backbone that the adapter was made for"
            )
        projected = [project(level) for project, level in zip(self.projections, maps, strict=True)]
        merged = self._merge(projected)
        if not self.extra_scales:
            return [*merged[:-2], merged[-1]]
        return merged[:-1] + self._add_scales(merged[-1])

    def _merge(self, projected: list[Tensor]) -> list[Tensor]:
        """Eq. 9: join each level with the one below; the last two of the L maps have one side."""
        raised = [_resize_bilinear(low, high) for low, high in pairwise(projected)]
        merged = [raised[0]]
        for merge, current in zip(self.merges, [*raised[1:], projected[-1]], strict=True):
            merged.append(merge(torch.cat([_resize_bilinear(merged[-1], current), current], dim=1)))
        return merged

    def _add_scales(self, finest_BChw: Tensor) -> list[Tensor]:
        """Eq. 10: double the side step by step; a map that no further step reads gets no ReLU."""
        base = functional.relu(self.extra_norm(finest_BChw))
        maps = [self.extra_scales[0](base)]
        for scale in list(self.extra_scales)[1:]:
            maps[-1] = functional.relu(maps[-1])
            maps.append(scale(torch.cat([maps[-1], _resize_bilinear(base, maps[-1])], dim=1)))
        return maps
