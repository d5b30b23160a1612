"""Loading the three networks of a frozen backbone from what it is stored as."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from diffusers.utils import is_accelerate_available, logging
from safetensors.torch import load_file
from transformers import CLIPTextModel

from perception.model_loading import load_network, loading
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

    from perception.diffusion.backbone_files import BackboneFiles


def load_networks(files: BackboneFiles, *, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Load autoencoder, U-Net and text encoder.

    Raises:
        ConfigError: If one cannot be loaded, or lacks a tensor.
    """
    if files.checkpoint is not None:
        return _from_single_file(files.checkpoint, files.folder, dtype=dtype)
    # Without accelerate diffusers warns on every load unless told to do without.
    diffusers: dict[str, Any] = {
        "torch_dtype": dtype,
        "low_cpu_mem_usage": is_accelerate_available(),
    }
    kinds = (
        ("vae", AutoencoderKL, diffusers),
        ("unet", UNet2DConditionModel, diffusers),
        ("text_encoder", CLIPTextModel, {"dtype": dtype}),
    )
    vae, unet, text_encoder = (
        load_network(
            kind,
            files.folder,
            subfolder=part,
            variant=files.weights[part].variant,
            local_files_only=True,
            **options,
        )
        for part, kind, options in kinds
    )
    return vae, unet, text_encoder


def _from_single_file(path: Path, folder: Path, *, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Load the networks of one file of all weights.

    Raises:
        ConfigError: If one cannot be loaded, or lacks a tensor.
    """
    options: dict[str, Any] = {
        "config": str(folder),
        "torch_dtype": dtype,
        "local_files_only": True,
    }
    with loading(path), _quiet_diffusers():
        weights = load_file(path)
        networks = []
        for part, load in (
            ("vae", AutoencoderKL.from_single_file),
            ("unet", UNet2DConditionModel.from_single_file),
            ("text_encoder", partial(create_diffusers_clip_model_from_ldm, CLIPTextModel)),
        ):
            try:
                network = load(dict(weights), subfolder=part, **options)
                lacking = any(each.is_meta for each in network.parameters())
            except NotImplementedError:
                # Diffusers leaves what it does not find without values, and may stumble on it.
                lacking = True
            if lacking:
                raise ConfigError(
                    f"{path}: wanted all tensors of its {part}, some are missing; copy the file "
                    "again, or name the model that it was made from in model.diffusion_config"
                )
            networks.append(network)
    vae, unet, text_encoder = networks
    return vae, unet, text_encoder


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Keep diffusers from warning of an empty list of modules on every load."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
