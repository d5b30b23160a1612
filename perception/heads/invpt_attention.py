"""InvPT's attention over the tokens of all tasks, which hands its scores on to the next stage.

Features of all tasks are one tensor [B, T, C, h, w]; layers with weights of their own for each task
are convolutions with one group a task.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.geometry import resized
from perception.vit import DROP_PATH, drop_path

NUM_HEADS = 2
_MLP_RATIO = 4


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMessage:
    """Scores before the softmax.

    Attributes:
        scores: [B, heads, T·h·w, K], rows ordered by task, then by row and column of the grid.
        grid: (h, w) of the queries of each task.
    """

    scores: Tensor
    grid: tuple[int, int]


def flatten_tasks(features_BTChw: Tensor) -> Tensor:
    """Lay the features of all tasks out as one sequence [B, T·h·w, C]."""
    return features_BTChw.flatten(3).transpose(2, 3).flatten(1, 2)


def unflatten_tasks(tokens_BNC: Tensor, num_tasks: int, grid: tuple[int, int]) -> Tensor:
    """Undo ``flatten_tasks``."""
    return tokens_BNC.unflatten(1, (num_tasks, -1)).transpose(2, 3).unflatten(3, grid)


def resize_message(message: AttentionMessage, num_tasks: int, grid: tuple[int, int]) -> Tensor:
    """Resize the query grid of every task: [B, heads, T·h'·w', K] for a grid (h', w')."""
    batch, heads = message.scores.shape[:2]
    maps = message.scores.unflatten(2, (num_tasks, *message.grid)).movedim(-1, 3)
    raised = resized(maps.flatten(0, 2), grid)
    return raised.unflatten(0, (batch, heads, num_tasks)).flatten(4).transpose(3, 4).flatten(2, 3)


class CrossTaskAttention(nn.Module):
    """Attention of every task's tokens to the tokens of all tasks, at reduced resolutions.

    Ye & Xu (2022, InvPT): queries come from a strided depthwise convolution, keys and values from
    average pooling whose stride doubles from stage to stage, so that all stages have the same keys.
    Scores of the stage before are resized and joined with the new ones by a 1×1 convolution.

    Args:
        takes_message: Whether a stage before hands scores on.
    """

    def __init__(self, width: int, num_tasks: int, *, kv_stride: int, takes_message: bool) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.kv_stride = kv_stride
        self.scale = width**-0.5
        joint = num_tasks * width
        self.query_grid = nn.Sequential(
            nn.Conv2d(joint, joint, 3, stride=2, padding=1, groups=joint, bias=False),
            nn.BatchNorm2d(joint),
        )
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.fuse = nn.Conv2d(2 * NUM_HEADS, NUM_HEADS, kernel_size=1) if takes_message else None

    def forward(
        self, features_BTChw: Tensor, message: AttentionMessage | None = None
    ) -> tuple[Tensor, AttentionMessage]:
        """Attend.

        Args:
            message: Scores of the stage before; None at the first.

        Returns:
            Features [B, T, C, h, w], and this stage's scores.
        """
        joint = features_BTChw.flatten(1, 2)
        asked = self.query_grid(joint).unflatten(1, (self.num_tasks, -1))
        pooled = functional.avg_pool2d(joint, self.kv_stride, ceil_mode=True)
        known = flatten_tasks(pooled.unflatten(1, (self.num_tasks, -1)))
        grid = (asked.shape[-2], asked.shape[-1])
        query = _split_heads(self.query(flatten_tasks(asked)))
        key, value = _split_heads(self.key(known)), _split_heads(self.value(known))
        scores = query @ key.transpose(2, 3) * self.scale
        if self.fuse is not None and message is not None:
            handed_on = resize_message(message, self.num_tasks, grid)
            scores = self.fuse(torch.cat([scores, handed_on], dim=1))
        read = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        answers = unflatten_tasks(self.project(read), self.num_tasks, grid)
        size = (features_BTChw.shape[-2], features_BTChw.shape[-1])
        raised = resized(answers.flatten(0, 1), size).unflatten(0, (-1, self.num_tasks))
        return raised, AttentionMessage(scores, grid)


def _split_heads(tokens_BNC: Tensor) -> Tensor:
    return tokens_BNC.unflatten(2, (NUM_HEADS, -1)).transpose(1, 2)


class CrossTaskBlock(nn.Module):
    """Transformer block over the tokens of all tasks: attention, then an MLP, both residual.

    Args:
        takes_message: Whether a stage before hands scores on.
    """

    def __init__(self, width: int, num_tasks: int, *, kv_stride: int, takes_message: bool) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.norm_attention = nn.LayerNorm(width)
        self.attention = CrossTaskAttention(
            width, num_tasks, kv_stride=kv_stride, takes_message=takes_message
        )
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, _MLP_RATIO * width),
            nn.GELU(),
            nn.Linear(_MLP_RATIO * width, width),
        )

    def forward(
        self,
        features_BTChw: Tensor,
        message: AttentionMessage | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, AttentionMessage]:
        """Map [B, T, C, h, w] to the same shape; also returns the scores for the next stage.

        Args:
            generator: Source of the branches that are dropped in training.
        """
        grid = (features_BTChw.shape[-2], features_BTChw.shape[-1])

        def dropped(branch: Tensor) -> Tensor:
            return drop_path(branch, DROP_PATH, is_training=self.training, generator=generator)

        tokens = flatten_tasks(features_BTChw)
        normed = unflatten_tasks(self.norm_attention(tokens), self.num_tasks, grid)
        attended, scores = self.attention(normed, message)
        tokens = tokens + dropped(flatten_tasks(attended))
        tokens = tokens + dropped(self.mlp(self.norm_mlp(tokens)))
        return unflatten_tasks(tokens, self.num_tasks, grid), scores
