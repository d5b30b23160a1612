"""The frozen backbone and the method that a run's configuration describes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import torch

from perception.diffusion.backbone import BackboneOptions, load_backbone
from perception.diffusion.features import FeatureSettings, pyramid_channels
from perception.methods.spec import MethodSpec
from schemas.paths import resolve_path
from schemas.sample import NUM_HUMAN_PARTS

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor
    from schemas.config import MethodSection, RunConfig


def make_method(config: RunConfig, backbone: DiffusionBackbone) -> DensePredictor:
    """Make the untrained method of a run; equal configurations give equal weights.

    Raises:
        ConfigError: If the host cannot do what is asked of it.
    """
    # A host's file is named after it, and its libraries are loaded only where it is used.
    host = import_module(f"perception.methods.{config.method.name}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        made: DensePredictor = host.make(method_spec(config.method, backbone))
        if config.method.backbone_tuning != "frozen":
            from perception.tuning import tune_backbone

            tune_backbone(
                made,
                backbone,
                tuning=config.method.backbone_tuning,
                lora_rank=config.method.lora_rank,
                lr_factor=config.method.backbone_lr_factor,
            )
    made.feature_settings = feature_settings(config.method)
    return made.to(backbone.device)


def open_backbone(
    config: RunConfig, *, device: torch.device | str | None = None
) -> DiffusionBackbone:
    """Load the frozen backbone with the run's precision and options.

    Args:
        config: The run.
        device: Where it runs; None: where the run says.

    Raises:
        ConfigError: If files are missing or the parts do not fit together.
    """
    model = config.model
    return load_backbone(
        resolve_path(model.diffusion),
        device=device_of(config) if device is None else device,
        dtype=dtype_of(config),
        options=BackboneOptions(
            channels_last=model.channels_last,
            compile_unet=model.compile,
            vae_slicing=model.vae_slicing,
            vae_tiling=model.vae_tiling,
            attention_slicing=model.attention_slicing,
        ),
    )


def method_spec(method: MethodSection, backbone: DiffusionBackbone) -> MethodSpec:
    """Join what the run chose with the shapes of the backbone."""
    names = method.class_names
    return MethodSpec(
        tasks=method.tasks,
        num_classes={"semseg": method.num_classes, "human_parts": NUM_HUMAN_PARTS},
        block_out_channels=backbone.block_out_channels,
        level_channels=pyramid_channels(backbone.unet.config),
        vae_scale_factor=backbone.downsample_factor,
        width_ratio=method.width_ratio,
        normals_loss=method.normals_loss,
        task_weights=method.task_weights,
        encoder=None if method.encoder is None else resolve_path(method.encoder),
        context_width=int(backbone.unet.config.cross_attention_dim),
        class_embeddings=backbone.embed_text(names).float().mean(dim=1) if names else None,
    )


def feature_settings(method: MethodSection) -> FeatureSettings:
    """How the method's features are taken: a published convention, perhaps at another index."""
    timestep = method.feature_timestep
    if method.feature_convention == "vpd":
        return FeatureSettings(
            timestep=1 if timestep is None else timestep,
            posterior="mode",
            scale_latents=False,
            add_noise=False,
        )
    return FeatureSettings(timestep=0 if timestep is None else timestep)


def device_of(config: RunConfig) -> str:
    """Device of the frozen models; ``auto`` is a GPU where there is one."""
    if config.model.device != "auto":
        return config.model.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_of(config: RunConfig) -> torch.dtype:
    """Precision of the frozen models."""
    found: torch.dtype = getattr(torch, config.model.dtype)
    return found
