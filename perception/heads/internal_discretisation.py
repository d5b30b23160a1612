"""The head of iDisc (Piccinelli et al., 2023): a scene is split into latents, pixels read them.

Shape legend: B images, L latents, N pixels of a level, C or D channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.heads.normals_bae import normalise_prediction
from perception.heads.positions import sine_positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from perception.heads.pixel_decoder import DecodedPixels

NUM_LEVELS = 3
_NUM_LATENTS = 32
_NUM_ITERATIONS = 2
_NUM_READ_LAYERS = 2
_FEED_FORWARD_FACTOR = 4
_SMALLEST_SHARE = 1e-6


def partition_weights(scores_BLN: Tensor) -> Tensor:
    """Let the latents compete for each pixel, then average each latent over its pixels.

    Softmax over the latents, + 1e-6, then renormalised over the pixels (iDisc, section 3.1, as in
    slot attention).

    Args:
        scores_BLN: Scaled products of latents and pixels.

    Returns:
        Same shape, positive; the weights of a latent sum to 1 over the pixels.
    """
    shares = scores_BLN.softmax(dim=1) + _SMALLEST_SHARE
    return shares / shares.sum(dim=2, keepdim=True)


def read_weights(scores_BNL: Tensor) -> Tensor:
    """Ordinary attention: the weights of a pixel sum to 1 over the latents (iDisc, section 3.2)."""
    return scores_BNL.softmax(dim=2)


def fuse_normals(levels: list[Tensor]) -> Tensor:
    """Mean over the levels of unit normals and concentrations, each brought to the finest grid.

    Args:
        levels: Raw [B, 4, h, w], low to high resolution.

    Returns:
        [B, 4, h, w] with the side of the last level: the mean normal, at most of unit length, and
        kappa.
    """
    size = levels[-1].shape[-2:]
    return torch.stack([normalise_prediction(_raise_to(each, size)) for each in levels]).mean(dim=0)


def fuse_depth(levels: list[Tensor]) -> Tensor:
    """Mean over the levels of exp(level), each brought to the finest grid.

    The levels share the work: one alone is no estimate of the depth.

    Args:
        levels: Logarithms, [B, 1, h, w], low to high resolution.

    Returns:
        Depth in metres, [B, 1, h, w] with the side of the last level.
    """
    size = levels[-1].shape[-2:]
    return torch.stack([_raise_to(each.exp(), size) for each in levels]).mean(dim=0)


def _raise_to(maps_BChw: Tensor, size: torch.Size) -> Tensor:
    if maps_BChw.shape[-2:] == size:
        return maps_BChw
    return functional.interpolate(
        maps_BChw, size=(size[0], size[1]), mode="bilinear", align_corners=True
    )


def _tokens(maps_BChw: Tensor) -> Tensor:
    """Pixels of a map with their positions, [B, N, C]."""
    return (maps_BChw + sine_positions(maps_BChw)).flatten(2).transpose(1, 2)


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, _FEED_FORWARD_FACTOR * width),
        nn.GELU(),
        nn.Linear(_FEED_FORWARD_FACTOR * width, width),
    )


class CrossAttention(nn.Module):
    """One head of attention between normed tokens of two kinds.

    Args:
        query_width: Channels of the tokens that ask; also of the result.
        token_width: Channels of the tokens that are asked.
        weigh: Scaled products [B, queries, tokens] to the weights of the values.
    """

    def __init__(
        self, query_width: int, token_width: int, *, weigh: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.weigh = weigh
        self.norm_queries = nn.LayerNorm(query_width)
        self.norm_tokens = nn.LayerNorm(token_width)
        self.queries = nn.Linear(query_width, query_width)
        self.keys = nn.Linear(token_width, query_width)
        self.values = nn.Linear(token_width, query_width)
        self.output = nn.Linear(query_width, query_width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Return what the queries [B, Q, query_width] read of the tokens; same shape."""
        asked = self.norm_tokens(tokens)
        products = self.queries(self.norm_queries(queries)) @ self.keys(asked).transpose(1, 2)
        weights = self.weigh(products / math.sqrt(self.queries.out_features))
        result: Tensor = self.output(weights @ self.values(asked))
        return result


class AdaptivePartition(nn.Module):
    """AFP of one level: learnt latents become this scene's latents, twice by the same weights.

    Args:
        pixel_width: Channels of the pixels.
        latent_width: Channels of the latents; published 128.
    """

    def __init__(self, pixel_width: int, latent_width: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(_NUM_LATENTS, latent_width))
        self.attention = CrossAttention(latent_width, pixel_width, weigh=partition_weights)
        self.feed_forward = _feed_forward(latent_width)

    def forward(self, raw_BChw: Tensor) -> Tensor:
        """Partition [B, pixel_width, h, w] into latents [B, L, latent_width]."""
        pixels = _tokens(raw_BChw)
        latents = self.latents.expand(len(pixels), -1, -1)
        for _ in range(_NUM_ITERATIONS):
            latents = latents + self.attention(latents, pixels)
            latents = latents + self.feed_forward(latents)
        return latents


class SceneReader(nn.Module):
    """ISD of one level: every pixel reads the latents, then becomes an output.

    Args:
        pixel_width: Channels of the pixels.
        out_channels: 4 for normals, 1 for depth.
    """

    def __init__(self, pixel_width: int, latent_width: int, out_channels: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            CrossAttention(pixel_width, latent_width, weigh=read_weights)
            for _ in range(_NUM_READ_LAYERS)
        )
        self.feed_forwards = nn.ModuleList(
            _feed_forward(pixel_width) for _ in range(_NUM_READ_LAYERS)
        )
        self.output = nn.Sequential(
            nn.LayerNorm(pixel_width),
            nn.Linear(pixel_width, pixel_width),
            nn.LayerNorm(pixel_width),
            nn.Linear(pixel_width, out_channels),
        )

    def forward(self, joined_BChw: Tensor, latents_BLD: Tensor) -> Tensor:
        """Read at every pixel of [B, pixel_width, h, w]; returns [B, out_channels, h, w]."""
        pixels = _tokens(joined_BChw)
        for attention, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            pixels = pixels + attention(pixels, latents_BLD)
            pixels = pixels + feed_forward(pixels)
        size = (joined_BChw.shape[-2], joined_BChw.shape[-1])
        found: Tensor = self.output(pixels).transpose(1, 2).unflatten(2, size)
        return found


class InternalDiscretisation(nn.Module):
    """AFP and ISD on every level of a pixel decoder, each level with weights of its own.

    Args:
        out_channels: 4 for normals, 1 for depth.
    """

    def __init__(self, pixel_width: int, latent_width: int, out_channels: int) -> None:
        super().__init__()
        self.partitions = nn.ModuleList(
            AdaptivePartition(pixel_width, latent_width) for _ in range(NUM_LEVELS)
        )
        self.readers = nn.ModuleList(
            SceneReader(pixel_width, latent_width, out_channels) for _ in range(NUM_LEVELS)
        )

    def forward(self, pixels: DecodedPixels) -> list[Tensor]:
        """Return each level's raw output [B, out_channels, h, w], low to high resolution."""
        return [
            read(joined, split(raw))
            for split, read, raw, joined in zip(
                self.partitions, self.readers, pixels.raw, pixels.joined, strict=True
            )
        ]
