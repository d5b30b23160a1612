"""What the tests of InvPT and TaskPrompter share: specs, pyramids with images, labels."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from perception.diffusion.features import FeaturePyramid
from perception.methods import METHODS
from tests.kit.models.pyramids import (
    SD_LEVELS,
    make_labels,
    make_pyramid,
    make_spec,
)

SIX_TASKS = ("normals", "depth", "semseg", "human_parts", "saliency", "boundaries")
PASCAL_TASKS = ("semseg", "human_parts", "saliency", "normals", "boundaries")
NYUD_TASKS = ("semseg", "depth", "normals", "boundaries")
CHANNELS = {
    "normals": 3,
    "depth": 1,
    "semseg": 5,
    "human_parts": 7,
    "saliency": 1,
    "boundaries": 1,
}


def make_small_method_on_vit(name: str, tasks=SIX_TASKS, *, seed: int = 0, **options) -> Any:
    torch.manual_seed(seed)
    return import_module(METHODS[name]).make(make_spec(tasks, **options))


def image_pyramid(batch: int, *, size=(64, 64), seed: int = 0) -> FeaturePyramid:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 3, *size, generator=generator) * 2 - 1
    return FeaturePyramid(make_pyramid(batch, seed=seed).maps, images)


def full_pyramid(size: tuple[int, int]) -> FeaturePyramid:
    maps = make_pyramid(1, levels=SD_LEVELS, lowest_side=8, device="meta").maps
    return FeaturePyramid(maps, torch.empty(1, 3, *size, device="meta"))


def all_labels(batch: int) -> dict[str, Tensor]:
    return {task: label for task, label in make_labels(batch).items() if task in CHANNELS}


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
