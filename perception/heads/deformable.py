"""Multi-scale deformable attention (Zhu et al., 2021) in plain PyTorch, by ``grid_sample``."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.heads.positions import sine_positions

_FEED_FORWARD_FACTOR = 4


def grid_centres(height: int, width: int, device: torch.device) -> Tensor:
    """Pixel centres of a map, [h·w, 2] as (x, y) in (0, 1), row by row."""
    rows = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    columns = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


class DeformableAttention(nn.Module):
    """Each pixel reads a few learnt places of every level.

    Args:
        width: Channels; a multiple of ``num_heads``.
        num_heads: Heads; each looks in its own directions at the start.
        num_points: Places that a head reads in a level.
    """

    def __init__(self, width: int, num_levels: int, *, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.shape = (num_heads, num_levels, num_points)
        places = num_heads * num_levels * num_points
        self.offsets = nn.Linear(width, 2 * places)
        self.weights = nn.Linear(width, places)
        self.values = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self._look_around()

    @torch.no_grad()
    def _look_around(self) -> None:
        """Start with head i looking in direction i of a circle, point j at a distance of j pixels.

        Equal weights of all places, as published.
        """
        num_heads, num_levels, num_points = self.shape
        angles = torch.arange(num_heads) * (2 * math.pi / num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().max(dim=-1, keepdim=True).values
        distances = torch.arange(1, num_points + 1)
        start = directions[:, None, None] * distances[None, None, :, None]
        self.offsets.bias.copy_(start.expand(-1, num_levels, -1, -1).flatten())
        for parameter in (self.offsets.weight, self.weights.weight, self.weights.bias):
            parameter.zero_()

    def forward(
        self, queries_BNC: Tensor, tokens_BNC: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Attend.

        Args:
            queries_BNC: What decides the places, one row per pixel of every level.
            sizes: Rows and columns of the levels, in the order of the rows of the tokens.

        Returns:
            [B, N, C].
        """
        batch, count, _ = queries_BNC.shape
        num_heads, _, num_points = self.shape
        offsets = self.offsets(queries_BNC).view(batch, count, *self.shape, 2)
        weights = self.weights(queries_BNC).view(batch, count, num_heads, -1).softmax(dim=-1)
        weights = weights.view(batch, count, *self.shape)
        centres = torch.cat([grid_centres(*size, queries_BNC.device) for size in sizes])
        levels = self.values(tokens_BNC).split([height * width for height, width in sizes], dim=1)
        total: Tensor = torch.zeros((), device=queries_BNC.device)
        for i, ((height, width), level_BnC) in enumerate(zip(sizes, levels, strict=True)):
            scale = torch.tensor([width, height], device=queries_BNC.device)
            places = centres[None, :, None, None] + offsets[:, :, :, i] / scale
            grid = (2 * places - 1).permute(0, 2, 1, 3, 4).flatten(0, 1)
            maps = level_BnC.unflatten(2, (num_heads, -1)).permute(0, 2, 3, 1)
            read = functional.grid_sample(
                maps.flatten(0, 1).unflatten(2, (height, width)),
                grid,
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )
            shares = weights[:, :, :, i].permute(0, 2, 1, 3).reshape(-1, 1, count, num_points)
            total = total + (read * shares).sum(dim=-1)
        joined = total.unflatten(0, (batch, num_heads)).permute(0, 3, 1, 2).flatten(2)
        result: Tensor = self.output(joined)
        return result


class DeformableLayer(nn.Module):
    """Pre-norm deformable self-attention, then a pre-norm feed-forward network (×4, GELU)."""

    def __init__(self, width: int, num_levels: int, *, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = DeformableAttention(
            width, num_levels, num_heads=num_heads, num_points=num_points
        )
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, _FEED_FORWARD_FACTOR * width),
            nn.GELU(),
            nn.Linear(_FEED_FORWARD_FACTOR * width, width),
        )

    def forward(
        self, tokens_BNC: Tensor, positions_1NC: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Map tokens [B, N, C] of all levels to tokens of the same shape."""
        normed = self.norm_attention(tokens_BNC)
        tokens_BNC = tokens_BNC + self.attention(normed + positions_1NC, normed, sizes)
        refined: Tensor = tokens_BNC + self.feed_forward(tokens_BNC)
        return refined


class DeformableEncoder(nn.Module):
    """Layers of deformable self-attention over all levels at once.

    Args:
        num_layers: Number of layers; iDisc has 4.
        num_heads: Heads; iDisc has 4.
        num_points: Places that a head reads in a level; iDisc has 4.
    """

    def __init__(
        self,
        width: int,
        num_levels: int,
        *,
        num_layers: int = 4,
        num_heads: int = 4,
        num_points: int = 4,
    ) -> None:
        super().__init__()
        self.level_embedding = nn.Parameter(torch.randn(num_levels, width))
        self.layers = nn.ModuleList(
            DeformableLayer(width, num_levels, num_heads=num_heads, num_points=num_points)
            for _ in range(num_layers)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map levels [B, C, h, w] to levels of the same shapes."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        positions = torch.cat(
            [
                sine_positions(level).flatten(2).transpose(1, 2) + embedding
                for level, embedding in zip(maps, self.level_embedding, strict=True)
            ],
            dim=1,
        )
        for layer in self.layers:
            tokens = layer(tokens, positions, sizes)
        starts = [0]
        for height, width in sizes:
            starts.append(starts[-1] + height * width)
        return [
            tokens[:, start:end].transpose(1, 2).unflatten(2, size)
            for (start, end), size in zip(pairwise(starts), sizes, strict=True)
        ]
