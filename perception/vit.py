"""The ViT encoder of the multi-task methods: transformers' own, for images of any size.

Methods tap it after each quarter of its blocks: 6, 12, 18 and 24 of ViT-L, 3, 6, 9 and 12 of ViT-B.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTConfig, ViTModel

from perception.adapter import scaled_width
from perception.geometry import resized
from perception.model_loading import load_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NUM_TAPS = 4
DROP_PATH = 0.15
"""Share of the samples that skip a residual branch in training, as both methods publish it."""

_PUBLISHED_HIDDEN = 1024
_PUBLISHED_HEADS = 16
_PUBLISHED_BLOCKS = 24
_PUBLISHED_GRID = 24
_IMAGE_MEAN = (0.485, 0.456, 0.406)
_IMAGE_STD = (0.229, 0.224, 0.225)


def host_width(published: int, width_ratio: float) -> int:
    """Scale a published width; unlike ``scaled_width`` it keeps widths that 8 does not divide."""
    return published if width_ratio == 1 else scaled_width(published, width_ratio)


def vit_config(width_ratio: float, patch_size: int) -> ViTConfig:
    """Scale ViT-L/16 at 384 (Dosovitskiy et al., 2021) to another width and patch.

    Width, heads and blocks shrink together: ratio 0.1 gives 96 channels, 2 heads and 4 blocks.

    Args:
        width_ratio: 1 for 1024 channels, 16 heads and 24 blocks.
    """
    num_heads = max(2, round(_PUBLISHED_HEADS * width_ratio))
    step = 8 * num_heads
    hidden = step * max(1, round(_PUBLISHED_HIDDEN * width_ratio / step))
    return ViTConfig(
        hidden_size=hidden,
        num_attention_heads=num_heads,
        num_hidden_layers=NUM_TAPS * max(1, round(_PUBLISHED_BLOCKS * width_ratio / NUM_TAPS)),
        intermediate_size=4 * hidden,
        image_size=_PUBLISHED_GRID * patch_size,
        patch_size=patch_size,
    )


def make_vit(encoder: str | Path | None, *, width_ratio: float, vae_scale_factor: int) -> ViTModel:
    """Load a pretrained ViT, or make one with random weights.

    The random one has patches of twice the VAE's factor: 16 for Stable Diffusion, so that its grid
    is that of the U-Net's second finest level.

    Args:
        encoder: Folder in the form of ``ViTModel.save_pretrained`` or Hugging Face id; None: random
            weights.
        width_ratio: See ``vit_config``; plays no part for a pretrained ViT.

    Returns:
        The model without pooler.

    Raises:
        ConfigError: If the folder or its files are missing.
    """
    if encoder is None:
        return ViTModel(vit_config(width_ratio, 2 * vae_scale_factor), add_pooling_layer=False)
    model: ViTModel = load_encoder(ViTModel, encoder, add_pooling_layer=False)
    return model


def tap_blocks(num_blocks: int) -> tuple[int, ...]:
    """List the blocks, counted from 1, whose outputs are tapped: the end of each quarter.

    Raises:
        ValueError: If the blocks cannot be split into quarters.
    """
    if num_blocks % NUM_TAPS or num_blocks == 0:
        raise ValueError(
            f"wanted a ViT whose number of blocks 4 divides, found {num_blocks}; use ViT-B or ViT-L"
        )
    return tuple(num_blocks // NUM_TAPS * quarter for quarter in range(1, NUM_TAPS + 1))


def expect_images(images: Tensor | None) -> Tensor:
    """Return the images of a pyramid.

    Raises:
        ValueError: If it has none.
    """
    if images is None:
        raise ValueError(
            "wanted the images beside the maps, found none; take features with images=…, as "
            "DensePredictor.observe does"
        )
    return images


def prepare_images(images: Tensor, patch_size: int, *, multiple: int = 1) -> Tensor:
    """Standardise images as ViTs were trained on them, at a size that whole patches cover.

    Args:
        images: float32 [B, 3, H, W] in [-1, 1].
        multiple: The token grid's sides become multiples of it.

    Returns:
        float32 [B, 3, H', W'], ImageNet mean 0 and deviation 1; H' and W' are H and W rounded up to
        multiples of ``patch_size * multiple``, the picture stretched (bilinear) to them.
    """
    step = patch_size * multiple
    height, width = (math.ceil(side / step) * step for side in images.shape[-2:])
    pixels = resized(images.float(), (height, width))
    mean = torch.tensor(_IMAGE_MEAN, device=pixels.device).view(3, 1, 1)
    deviation = torch.tensor(_IMAGE_STD, device=pixels.device).view(3, 1, 1)
    return ((pixels + 1) / 2 - mean) / deviation


def tokens_to_map(tokens_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lay tokens out as a map [B, D, *grid]."""
    return tokens_BND.transpose(1, 2).unflatten(2, grid)


def drop_path(
    branch: Tensor, rate: float, *, is_training: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Drop a residual branch for some samples (Huang et al., 2016); the mean stays the same.

    Args:
        branch: [B, ...].
        rate: Probability of a sample to be dropped, in [0, 1).
        generator: Source of the draw; None: torch's global state.
    """
    if not is_training or rate == 0:
        return branch
    device = branch.device if generator is None else generator.device
    drawn = torch.rand(len(branch), generator=generator, device=device).to(branch.device)
    kept = (drawn >= rate).to(branch.dtype) / (1 - rate)
    return branch * kept.view(-1, *[1] * (branch.dim() - 1))


def drop_rates(num_blocks: int) -> list[float]:
    """Rate of each block, rising evenly from 0 to ``DROP_PATH``."""
    return [DROP_PATH * index / (num_blocks - 1) for index in range(num_blocks)]


class ViTEncoder(nn.Module):
    """Feature maps of a ViT after some of its blocks.

    Args:
        blocks: Which blocks, counted from 1, rising; the last one must be the ViT's last, whose
            output passes the final layer norm.
    """

    def __init__(self, vit: ViTModel, blocks: Sequence[int]) -> None:
        super().__init__()
        self.vit = vit
        self.blocks = tuple(blocks)
        self.width: int = vit.config.hidden_size
        self.patch_size: int = vit.config.patch_size

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map standardised images [B, 3, H, W] to one [B, width, H/patch, W/patch] per block."""
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        hidden = self.vit.embeddings(images, interpolate_pos_encoding=True)
        taps = []
        for number, layer in enumerate(self.vit.layers, start=1):
            hidden = layer(hidden, None)
            if number in self.blocks:
                taps.append(hidden)
        taps[-1] = self.vit.layernorm(taps[-1])
        return [tokens_to_map(tap[:, 1:], grid) for tap in taps]


class PatchTokens(nn.Module):
    """Patches of an image with their places, without the class token.

    Args:
        vit: Model whose patch projection and position embeddings are taken over.
    """

    def __init__(self, vit: ViTModel) -> None:
        super().__init__()
        self.projection = vit.embeddings.patch_embeddings.projection
        positions = vit.embeddings.position_embeddings.detach()[0, 1:]
        side = math.isqrt(len(positions))
        self.positions_Dhw = nn.Parameter(positions.T.unflatten(1, (side, side)).clone())

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map standardised images [B, 3, H, W] to tokens [B, h·w, D] and (h, w)."""
        patches_BDhw = self.projection(images)
        grid = (patches_BDhw.shape[-2], patches_BDhw.shape[-1])
        places = self.positions_Dhw.unsqueeze(0)
        if grid != tuple(places.shape[-2:]):
            places = functional.interpolate(places, size=grid, mode="bicubic", align_corners=False)
        return (patches_BDhw + places).flatten(2).transpose(1, 2), grid


class PatchEncoder(nn.Module):
    """Feature maps of a ViT without class token, after each quarter of its blocks.

    In training branches are dropped more often from block to block (see ``drop_rates``). Only the
    last map passes the final layer norm.

    Args:
        vit: Model without pooler; its weights are taken over.
    """

    def __init__(self, vit: ViTModel) -> None:
        super().__init__()
        self.width: int = vit.config.hidden_size
        self.patch_size: int = vit.config.patch_size
        self.taps = tap_blocks(len(vit.layers))
        self.rates = drop_rates(len(vit.layers))
        self.patches = PatchTokens(vit)
        self.blocks = vit.layers
        self.norm = vit.layernorm

    def forward(self, images: Tensor, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """Map standardised images [B, 3, H, W] to four maps [B, width, H/patch, W/patch].

        Args:
            generator: Source of the branches that are dropped in training.
        """
        tokens, grid = self.patches(images)
        taps = []
        for number, (block, rate) in enumerate(zip(self.blocks, self.rates, strict=True), start=1):
            drop = partial(drop_path, rate=rate, is_training=self.training, generator=generator)
            attended, _ = block.attention(block.layernorm_before(tokens), None)
            tokens = tokens + drop(attended)
            tokens = tokens + drop(block.mlp(block.layernorm_after(tokens)))
            if number in self.taps:
                taps.append(tokens)
        taps[-1] = self.norm(taps[-1])
        return [tokens_to_map(tap, grid) for tap in taps]
