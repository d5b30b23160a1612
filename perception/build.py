"""The frozen backbone and the method that a run's configuration describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from perception.diffusion.features import pyramid_channels
from perception.methods.diff2in1 import make_diff2in1

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor
    from schemas.config import RunConfig


def make_method(config: RunConfig, backbone: DiffusionBackbone) -> DensePredictor:
    """Make the untrained method of a run; equal configurations give equal weights."""
    method = config.method
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        made = make_diff2in1(
            block_out_channels=backbone.block_out_channels,
            level_channels=pyramid_channels(backbone.unet.config),
            vae_scale_factor=backbone.downsample_factor,
            tasks=method.tasks,
            num_classes=method.num_classes,
        )
    return made.to(backbone.device)


def device_of(config: RunConfig) -> str:
    """Device of the frozen models; ``auto`` is a GPU where there is one."""
    if config.model.device != "auto":
        return config.model.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_of(config: RunConfig) -> torch.dtype:
    """Precision of the frozen models."""
    found: torch.dtype = getattr(torch, config.model.dtype)
    return found
