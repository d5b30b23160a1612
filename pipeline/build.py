"""Open what a run's configuration names: models, source, captioner, generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from perception.captioner import Blip2Captioner, FileCaptions, NoCaptions
from perception.diffusion.backbone import load_backbone
from perception.diffusion.features import pyramid_channels
from perception.methods.diff2in1 import make_diff2in1
from pipeline.caption import SourceCaptions
from pipeline.generator import Generator
from sources.protocol import open_source, resolve_path

if TYPE_CHECKING:
    from perception.captioner import Captioner
    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor
    from schemas.config import RunConfig
    from sources.protocol import LabelledSource
    from storage.filesystem import RunStore


def open_generator(config: RunConfig, store: RunStore) -> Generator:
    """Load everything a generator needs, but for the creation weights."""
    backbone = load_backbone(
        resolve_path(config.model.diffusion), device=device_of(config), dtype=dtype_of(config)
    )
    return Generator(
        config,
        store=store,
        source=open_run_source(config),
        backbone=backbone,
        method=make_method(config, backbone),
    )


def open_run_source(config: RunConfig) -> LabelledSource:
    """Open the run's source."""
    method = config.method
    return open_source(config.source, method.tasks, num_classes=method.num_classes)


def make_method(config: RunConfig, backbone: DiffusionBackbone) -> DensePredictor:
    """Make the method that published weights are loaded into; its own weights mean nothing."""
    method = make_diff2in1(
        block_out_channels=backbone.block_out_channels,
        level_channels=pyramid_channels(backbone.unet.config),
        vae_scale_factor=backbone.downsample_factor,
        tasks=config.method.tasks,
        num_classes=config.method.num_classes,
    )
    return method.to(backbone.device)


def open_captioner(config: RunConfig) -> Captioner | SourceCaptions:
    """Open the run's captioner.

    Raises:
        ConfigError: If its files are missing or malformed.
    """
    kind = config.model.captioner
    if kind == "blip2":
        return Blip2Captioner.load(
            resolve_path(config.model.captioner_path),
            device=device_of(config),
            dtype=dtype_of(config),
        )
    if kind == "file":
        return FileCaptions.load(resolve_path(config.model.captioner_path))
    return SourceCaptions() if kind == "source" else NoCaptions()


def device_of(config: RunConfig) -> str:
    """Device of the frozen models; ``auto`` is a GPU where there is one."""
    if config.model.device != "auto":
        return config.model.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_of(config: RunConfig) -> torch.dtype:
    """Precision of the frozen models."""
    found: torch.dtype = getattr(torch, config.model.dtype)
    return found
