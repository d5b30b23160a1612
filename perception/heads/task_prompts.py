"""TaskPrompter's encoder: ViT blocks that carry one prompt per task beside the patches.

Ye & Xu (2023, TaskPrompter). N = h·w patches, T tasks, M windows of the channel attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.geometry import resized
from perception.vit import PatchTokens, drop_path, drop_rates, tap_blocks, tokens_to_map

if TYPE_CHECKING:
    from transformers import ViTModel


@dataclass(frozen=True, slots=True, eq=False)
class PromptScores:
    """Raw scores of a block: products of queries and keys, neither scaled nor softmaxed.

    Attributes:
        spatial: [B, heads, T, h, w], of each prompt with the patches.
        prompts: [B, heads, T, T], of the prompts with each other.
        channel: [B, M, T, C], of each prompt's map with the channels, by window in row order.
    """

    spatial: Tensor
    prompts: Tensor
    channel: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PromptTap:
    """What the decoder reads of a block: patches as a map [B, C, h, w], and its scores."""

    patches: Tensor
    scores: PromptScores


def split_windows(maps: Tensor, num_windows: int) -> Tensor:
    """Cut maps [B, K, h, w] into √M by √M windows: [B, M, K, h·w/M]; √M must divide h and w."""
    cuts = math.isqrt(num_windows)
    rows, columns = maps.shape[-2] // cuts, maps.shape[-1] // cuts
    cut = maps.unflatten(3, (cuts, columns)).unflatten(2, (cuts, rows))
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)


class PromptMaps(nn.Module):
    """The prompts' way to the image plane and back: the channel attention's queries.

    The published map has one weight per patch and so fits one image size; here it has the size of
    ``grid`` and is resized to the patches of the image, which changes nothing at that size. As in
    the published code the channel attention's output itself is not used, only its scores and the
    projected prompts.

    Args:
        returns: Whether the maps also update the prompts; the last block's prompts are not read.
    """

    def __init__(self, width: int, grid: tuple[int, int], *, returns: bool) -> None:
        super().__init__()
        self.grid = grid
        self.spread = nn.Linear(width, grid[0] * grid[1])
        self.gather = nn.Linear(grid[0] * grid[1], width) if returns else None

    def forward(self, prompts_BTC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return maps [B, T, *grid], and the update of the prompts [B, T, C]."""
        spread = self.spread(prompts_BTC)
        update = None if self.gather is None else self.gather(spread)
        return spread.unflatten(2, self.grid), update


class PromptBlock(nn.Module):
    """A ViT block over [prompts; patches].

    Args:
        layer: Block of transformers' ViT; its weights are taken over.
        drop_rate: Share of the samples that skip a branch in training.
    """

    def __init__(
        self,
        layer: Any,
        grid: tuple[int, int],
        *,
        num_windows: int,
        drop_rate: float,
        is_last: bool,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads: int = layer.attention.num_attention_heads
        self.num_windows = num_windows
        self.drop_rate = drop_rate
        self.maps = PromptMaps(layer.attention.q_proj.in_features, grid, returns=not is_last)

    def forward(
        self,
        tokens_BSC: Tensor,
        *,
        num_tasks: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Map [prompts; patches], [B, T + N, C], to the same shape.

        Args:
            generator: Source of the branches that are dropped in training.
        """
        normed = self.layer.layernorm_before(tokens_BSC)
        query, key, value = self._split(normed)
        read = functional.scaled_dot_product_attention(query, key, value)
        update = self.layer.attention.o_proj(read.transpose(1, 2).flatten(2))
        _, prompt_update = self.maps(normed[:, :num_tasks])
        if prompt_update is not None:
            update = torch.cat(
                [update[:, :num_tasks] + prompt_update, update[:, num_tasks:]], dim=1
            )

        def dropped(branch: Tensor) -> Tensor:
            return drop_path(branch, self.drop_rate, is_training=self.training, generator=generator)

        tokens = tokens_BSC + dropped(update)
        return tokens + dropped(self.layer.mlp(self.layer.layernorm_after(tokens)))

    def scores(self, tokens_BSC: Tensor, *, num_tasks: int, size: tuple[int, int]) -> PromptScores:
        """Raw scores of the prompts, from the tokens that enter the block.

        Args:
            size: (h, w) of the patches; √M divides both.
        """
        normed = self.layer.layernorm_before(tokens_BSC)
        query, key, _ = self._split(normed)
        raw = query[:, :, :num_tasks] @ key.transpose(2, 3)
        maps, _ = self.maps(normed[:, :num_tasks])
        asked = split_windows(resized(maps, size), self.num_windows)
        known = split_windows(tokens_to_map(normed[:, num_tasks:], size), self.num_windows)
        return PromptScores(
            spatial=raw[..., num_tasks:].unflatten(3, size),
            prompts=raw[..., :num_tasks],
            channel=asked @ known.transpose(2, 3),
        )

    def _split(self, normed_BSC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, [B, heads, T + N, C / heads] each."""
        attention = self.layer.attention
        query, key, value = (
            project(normed_BSC).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return query, key, value


class PromptEncoder(nn.Module):
    """A ViT with a prompt for each task, tapped after each quarter of its blocks.

    Branches are dropped more often from block to block, from 0 to 0.15 (Huang et al., 2016).
    Prompts start normal with mean 1 and deviation 1, cut at two deviations, as published.

    Args:
        vit: Model without pooler; its weights are taken over, its class token is not used.
        grid: Size of the prompts' maps: the patch grid of the training images.
    """

    def __init__(
        self, vit: ViTModel, num_tasks: int, *, grid: tuple[int, int], num_windows: int
    ) -> None:
        super().__init__()
        self.width: int = vit.config.hidden_size
        self.num_heads: int = vit.config.num_attention_heads
        self.patch_size: int = vit.config.patch_size
        self.num_windows = num_windows
        self.taps = tap_blocks(len(vit.layers))
        self.patches = PatchTokens(vit)
        self.prompts = nn.Parameter(torch.empty(num_tasks, self.width))
        nn.init.trunc_normal_(self.prompts, mean=1.0, std=1.0, a=-1.0, b=3.0)
        rates = drop_rates(len(vit.layers))
        self.blocks = nn.ModuleList(
            PromptBlock(
                layer,
                grid,
                num_windows=num_windows,
                drop_rate=rate,
                is_last=layer is vit.layers[-1],
            )
            for layer, rate in zip(vit.layers, rates, strict=True)
        )
        self.norm = vit.layernorm

    def forward(
        self, images: Tensor, *, generator: torch.Generator | None = None
    ) -> list[PromptTap]:
        """Run the blocks.

        Args:
            images: Standardised, [B, 3, H, W]; √M divides both sides of the patch grid.
            generator: Source of the branches that are dropped in training.

        Returns:
            What the decoder reads, after each quarter.
        """
        patches, size = self.patches(images)
        num_tasks = len(self.prompts)
        tokens = torch.cat([self.prompts.expand(len(images), -1, -1), patches], dim=1)
        taps = []
        for number, block in enumerate(self.blocks, start=1):
            scores = None
            if number in self.taps:
                scores = block.scores(tokens, num_tasks=num_tasks, size=size)  # type: ignore[operator]
            tokens = block(tokens, num_tasks=num_tasks, generator=generator)
            if scores is not None:
                seen = tokens[:, num_tasks:]
                seen = self.norm(seen) if number == len(self.blocks) else seen
                taps.append(PromptTap(tokens_to_map(seen, size), scores))
        return taps
