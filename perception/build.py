"""The frozen backbone, the method and the creator that a run's configuration describes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import torch

from perception.creators import NETWORKS
from perception.diffusion.backbone import BackboneOptions, load_backbone
from perception.methods import METHODS
from perception.methods.spec import method_spec
from schemas.errors import ConfigError
from schemas.paths import resolve_path
from schemas.text import number_of

if TYPE_CHECKING:
    from perception.creators.protocol import CreatorNetwork
    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor
    from schemas.config import RunConfig

_ONLY_DIFFUSION = ("bae", "idisc", "jointnet", "mtdiffusion", "vpd")
"""Methods without an encoder of their own."""

_DEVICE_REMEDY = "leave it to auto, or take the CPU (--device cpu, or --set model.device=cpu)"


def make_method(config: RunConfig, backbone: DiffusionBackbone) -> DensePredictor:
    """Make the untrained method of a run; equal configurations give equal weights.

    Raises:
        ConfigError: If the method cannot do what is asked of it.
    """
    choices = config.method
    if not choices.reads_diffusion and choices.name in _ONLY_DIFFUSION:
        raise ConfigError(
            f"method.reads_diffusion = false: {choices.name} reads nothing else; set it to true, "
            "or take invpt, taskprompter, taskdiffusion or diffusionmtl"
        )
    module = import_module(METHODS[choices.name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        made: DensePredictor = module.make(method_spec(choices, backbone, config.pairs))
        if choices.backbone_tuning != "frozen":
            from perception.diffusion.tuning import tuned_copy

            tuned = tuned_copy(
                backbone,
                tuning=choices.backbone_tuning,
                lora_rank=choices.lora_rank,
                lr_factor=choices.backbone_lr_factor,
            )
            made.learn_unet(tuned)
    return made.to(backbone.device)


def make_creator_network(config: RunConfig, backbone: DiffusionBackbone) -> CreatorNetwork:
    """Make the untrained creator of a run with ``training.creator``.

    Equal configurations give equal weights.

    Raises:
        ConfigError: If it does not fit the backbone.
    """
    module = import_module(NETWORKS[config.creator.kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        made: CreatorNetwork = module.make(config, backbone)
    return made.to(backbone.device)


def open_backbone(
    config: RunConfig, *, device: torch.device | str | None = None
) -> DiffusionBackbone:
    """Load the frozen backbone with the run's precision and options.

    Args:
        device: Where it runs; None: where the run says.

    Raises:
        ConfigError: If files are missing or the parts do not fit together.
    """
    model = config.model
    return load_backbone(
        resolve_path(model.diffusion),
        device=device_of(config) if device is None else device,
        dtype=dtype_of(config),
        variant=model.variant,
        config=model.diffusion_config and resolve_path(model.diffusion_config),
        options=BackboneOptions(
            channels_last=model.channels_last,
            compile_unet=model.compile,
            vae_slicing=model.vae_slicing,
            vae_tiling=model.vae_tiling,
            attention_slicing=model.attention_slicing,
        ),
    )


def device_of(config: RunConfig) -> str:
    """Device of the frozen models; ``auto`` is a GPU where there is one.

    Raises:
        ConfigError: If this machine has no such device.
    """
    name = config.model.device
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    expect_device(name)
    return name


def expect_device(name: str) -> None:
    """Check that this machine has a device.

    Raises:
        ConfigError: If it has not.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda", "mps"}:
        raise ConfigError(f"model.device = {name}: no device; {_DEVICE_REMEDY}")
    if device.type == "cpu":
        return
    found = torch.cuda.device_count() if device.type == "cuda" else torch.mps.device_count()
    if not found:
        raise ConfigError(
            f"model.device = {name}: this machine has no GPU that PyTorch {torch.__version__} can "
            f"use; {_DEVICE_REMEDY}, or install a driver and a PyTorch that fit its GPU"
        )
    if (device.index or 0) >= found:
        raise ConfigError(
            f"model.device = {name}: this machine has {number_of(found, 'GPU')}, "
            f"from {device.type}:0; {_DEVICE_REMEDY}"
        )


def dtype_of(config: RunConfig) -> torch.dtype:
    """Precision of the frozen models."""
    found: torch.dtype = getattr(torch, config.model.dtype)
    return found
