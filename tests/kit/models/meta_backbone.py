"""Stable Diffusion v1.5 on torch's meta device: every shape of a run, no memory and no numbers."""

from __future__ import annotations

import functools

import torch

from perception.diffusion.backbone import DiffusionBackbone
from perception.diffusion.schedule import NoiseSchedule
from perception.diffusion.text import PromptEncoder
from tests.kit.models.real_shapes import (
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    make_vae,
)

IMAGE_SIZE_PX = 512


@functools.cache
def meta_backbone() -> DiffusionBackbone:
    """Return the backbone; shared, so do not change it."""
    with torch.device("meta"):
        networks = [make().eval().requires_grad_(False) for make in (make_vae, make_unet)]
        text_encoder = make_text_encoder().eval().requires_grad_(False)
    return DiffusionBackbone(
        vae=networks[0],
        unet=networks[1],
        prompts=PromptEncoder(make_tokenizer(), text_encoder),
        schedule=NoiseSchedule.from_config(dict(make_scheduler().config)),
        model_id="meta",
        device=torch.device("meta"),
        dtype=torch.float32,
    )


def meta_images(count: int = 1) -> torch.Tensor:
    """Images without values, [B, 3, 512, 512]."""
    return torch.empty(count, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX, device="meta")
