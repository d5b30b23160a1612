"""Convolutions that are told a noise level: scaled and shifted per channel.

Perez et al. (2018, FiLM). With groups, every group has weights of its own throughout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_NUM_FREQUENCIES = 8


class LevelEmbedding(nn.Module):
    """Noise level ℓ → [ℓ, sin 2πωℓ, cos 2πωℓ] with eight learnt ω → a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(_NUM_FREQUENCIES))
        self.mlp = nn.Sequential(
            nn.Linear(1 + 2 * _NUM_FREQUENCIES, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, levels_B: Tensor) -> Tensor:
        """Map log-SNRs [B] to [B, width]."""
        level = levels_B.unsqueeze(1)
        phase = 2 * math.pi * level * self.frequencies
        embedded: Tensor = self.mlp(torch.cat([level, phase.sin(), phase.cos()], dim=1))
        return embedded


class FilmConv(nn.Module):
    """Convolution → batch norm → x (1 + a) + b, where (a, b) is linear in SiLU(e).

    Args:
        level_width: Width of the embedded noise level e.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        level_width: int,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups)
        self.norm = nn.BatchNorm2d(out_channels)
        self.film = nn.Linear(level_width, 2 * out_channels)

    def forward(self, maps_BChw: Tensor, level_BE: Tensor) -> Tensor:
        """Map [B, in_channels, h, w] to [B, out_channels, h, w]."""
        scale, shift = self.film(functional.silu(level_BE))[..., None, None].chunk(2, dim=1)
        told: Tensor = self.norm(self.conv(maps_BChw)) * (1 + scale) + shift
        return told


class FilmBlock(nn.Module):
    """3×3 :class:`FilmConv` → GELU → 1×1, of one width."""

    def __init__(self, channels: int, *, level_width: int, groups: int = 1) -> None:
        super().__init__()
        self.told = FilmConv(channels, channels, 3, level_width=level_width, groups=groups)
        self.project = nn.Conv2d(channels, channels, kernel_size=1, groups=groups)

    def forward(self, maps_BChw: Tensor, level_BE: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        projected: Tensor = self.project(functional.gelu(self.told(maps_BChw, level_BE)))
        return projected
