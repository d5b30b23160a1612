"""Random feature pyramids of known shapes, and labels that fit them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from perception.methods.bae import Bae, make
from perception.methods.spec import MethodSpec
from schemas.config_method import MethodSection
from schemas.sample import NUM_HUMAN_PARTS

SMALL_BLOCKS = (32, 64, 96, 128)
SMALL_LEVELS = (
    (96, 128, 128, 128, 128, 128),
    (64, 96, 96, 128, 96, 96),
    (32, 64, 64, 96, 64, 64),
    (32, 32, 32, 64, 32, 32, 32),
)
SD_BLOCKS = (320, 640, 1280, 1280)
SD_LEVELS = (
    (1280,) * 6,
    (640, 1280, 1280, 1280, 1280, 1280),
    (320, 640, 640, 1280, 640, 640),
    (320, 320, 320, 640, 320, 320, 320),
)


@dataclass(frozen=True)
class RandomPyramid:
    maps: tuple[tuple[Tensor, ...], ...]
    images: Tensor | None = None


def make_pyramid(
    batch: int, *, levels=SMALL_LEVELS, lowest_side: int = 2, seed: int = 0, device: str = "cpu"
) -> RandomPyramid:
    generator = torch.Generator().manual_seed(seed) if device == "cpu" else None
    return RandomPyramid(
        tuple(
            tuple(
                torch.randn(
                    batch,
                    width,
                    lowest_side << i,
                    lowest_side << i,
                    generator=generator,
                    device=device,
                )
                for width in level
            )
            for i, level in enumerate(levels)
        )
    )


def make_labels(batch: int, *, side: int = 64, num_classes: int = 5, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, 4, 4, generator=generator)
    normals = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return {
        "normals": functional.normalize(normals, dim=1),
        "depth": 1 + torch.rand(batch, 1, 1, 1, generator=generator).expand(-1, -1, side, side),
        "semseg": torch.randint(0, num_classes, (batch, side, side), generator=generator),
        "human_parts": torch.randint(0, NUM_HUMAN_PARTS, (batch, side, side), generator=generator),
        "saliency": torch.rand(batch, 1, side, side, generator=generator).round(),
        "boundaries": (torch.rand(batch, 1, side, side, generator=generator) > 0.9).float(),
    }


def make_spec(
    tasks=("normals",), *, blocks=SMALL_BLOCKS, levels=SMALL_LEVELS, factor: int = 4, **options
) -> MethodSpec:
    """A spec for a backbone of these shapes; ``options`` are of MethodSpec or of its choices."""
    choices = {"num_classes": 5, "tasks": tasks}
    choices |= {name: options.pop(name) for name in MethodSection.model_fields & options.keys()}
    return MethodSpec(
        choices=MethodSection(**choices),
        block_out_channels=blocks,
        level_channels=levels,
        vae_scale_factor=factor,
        **options,
    )


def full_spec(tasks=("normals",), **options) -> MethodSpec:
    """A spec for Stable Diffusion v1."""
    return make_spec(tasks, blocks=SD_BLOCKS, levels=SD_LEVELS, factor=8, **options)


def make_small_method(tasks=("normals",), *, seed: int = 0, **options) -> Bae:
    torch.manual_seed(seed)
    return make(make_spec(tasks, **options))
