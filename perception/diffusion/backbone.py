"""The frozen latent diffusion model that every method shares."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from perception.diffusion.backbone_files import find_backbone_files
from perception.diffusion.headers import expect_fitting_parts
from perception.diffusion.networks import load_networks
from perception.diffusion.schedule import NoiseSchedule
from perception.diffusion.text import PromptEncoder
from perception.model_files import digest_files, read_json
from perception.model_loading import loading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneOptions:
    """What trades memory, speed and start-up time; images stay the same up to rounding.

    Attributes:
        channels_last: Lay weights and images out as tensor cores want them.
        compile_unet: Run the U-Net of synthesis through ``torch.compile``. Features are taken from
            the plain U-Net, whose blocks' outputs are recorded.
        vae_slicing: Encode and decode one image at a time.
        vae_tiling: Encode and decode images larger than the autoencoder's own size in overlapping
            tiles; only there do images change.
        attention_slicing: Compute attention in slices of heads; for devices without a fused
            attention kernel.
    """

    channels_last: bool = True
    compile_unet: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    attention_slicing: bool = False


def load_backbone(
    path_or_id: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = False,
    revision: str | None = None,
    variant: str | None = None,
    config: str | Path | None = None,
    options: BackboneOptions | None = None,
) -> DiffusionBackbone:
    """Load a Stable Diffusion v1/v2 checkpoint, frozen.

    Args:
        path_or_id: A folder in the form of ``StableDiffusionPipeline.save_pretrained``, a Hugging
            Face id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``, or one safetensors file
            of all weights in their authors' names.
        dtype: Dtype of weights and activations; latents and the sampler's arithmetic stay float32.
        revision: Branch, tag or commit of a Hugging Face id.
        variant: Weight variant to prefer, for instance ``fp16``; found by itself where there is no
            choice.
        config: For one file of all weights: folder or Hugging Face id that configurations,
            tokenizer and scheduler are read from; if None, they are looked for beside the file,
            then, for a version 1, under ``stable-diffusion-v1-5/stable-diffusion-v1-5``.
        options: The defaults of ``BackboneOptions`` if None.

    Returns:
        The backbone in eval mode; no parameter requires a gradient.

    Raises:
        ConfigError: If files are missing or the parts do not fit together.
    """
    files = find_backbone_files(
        path_or_id,
        variant=variant,
        config=config,
        local_files_only=local_files_only,
        revision=revision,
    )
    folder = files.folder
    vae, unet, text_encoder = load_networks(files, dtype=dtype)
    with loading(folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, subfolder="tokenizer", local_files_only=True, trust_remote_code=False
        )
        schedule = NoiseSchedule.from_config(read_json(folder / "scheduler/scheduler_config.json"))
    configs = {
        "vae": vae.config,
        "unet": unet.config,
        "text_encoder": text_encoder.config.to_dict(),
    }
    expect_fitting_parts(folder, configs)
    options = options or BackboneOptions()
    for network in (vae, unet, text_encoder):
        _freeze(network, device, options)
    _set_up(vae, unet, options)
    backbone = DiffusionBackbone(
        vae=vae,
        unet=unet,
        prompts=PromptEncoder(tokenizer, text_encoder),
        schedule=schedule,
        model_id=digest_files(files.by_name),
        device=torch.device(device),
        dtype=dtype,
        compiled_unet=torch.compile(unet) if options.compile_unet else None,
    )
    logger.info("backbone_loaded", extra={"path": str(path_or_id), "model_id": backbone.model_id})
    return backbone


def _freeze(network: Any, device: torch.device | str, options: BackboneOptions) -> None:
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    network.to(device=device, memory_format=layout)
    network.eval().requires_grad_(requires_grad=False)


def _set_up(vae: Any, unet: Any, options: BackboneOptions) -> None:
    if options.vae_slicing:
        vae.enable_slicing()
    if options.vae_tiling:
        vae.enable_tiling()
    if options.attention_slicing:
        unet.set_attention_slice("auto")


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionBackbone:
    """A frozen autoencoder, U-Net and text encoder with their noise schedule.

    One thread at a time runs the U-Net: ``lock`` is held around each pass, so that recording a
    pass's activations never catches another thread's.

    Attributes:
        vae: ``AutoencoderKL``.
        unet: ``UNet2DConditionModel``.
        prompts: Text encoder with its cache.
        schedule: Noise schedule and prediction type of the checkpoint.
        model_id: Digest of configuration, tokenizer and weight files; names the model in manifests.
        device: Where the networks run.
        dtype: Dtype of weights and activations.
        compiled_unet: What :meth:`predict` runs in place of ``unet``; same weights.
        tuned_unet: A ``TunedUnet`` that :meth:`predict` runs in place of both, if one has learnt to
            denoise.
    """

    vae: Any
    unet: Any
    prompts: PromptEncoder
    schedule: NoiseSchedule
    model_id: str
    device: torch.device
    dtype: torch.dtype
    compiled_unet: Any = None
    tuned_unet: nn.Module | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def scaling_factor(self) -> float:
        """Constant that gives the latents about unit variance (0.18215 for Stable Diffusion v1)."""
        return float(self.vae.config.scaling_factor)

    @property
    def downsample_factor(self) -> int:
        """Image pixels per latent pixel along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(self.vae.config.latent_channels)

    @property
    def block_out_channels(self) -> tuple[int, ...]:
        """U-Net channels per level, finest level first."""
        return tuple(self.unet.config.block_out_channels)

    @property
    def image_size_px(self) -> int:
        """Side of the square images the U-Net was trained on."""
        return int(self.unet.config.sample_size) * self.downsample_factor

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts to [B, L, C]; each distinct prompt is encoded once and remembered."""
        return self.prompts.embed(prompts)

    @torch.no_grad()
    def predict(self, latents: Tensor, timestep: int | Tensor, context: Tensor) -> Tensor:
        """Run the U-Net once, compiled if it was so asked.

        Args:
            latents: Scaled noisy latents [B, C, h, w], any float dtype.
            timestep: Schedule index, or one per sample as int64 [B].
            context: Text embeddings [B, L, C].

        Returns:
            The raw prediction (noise, velocity or clean latents by the schedule's
            ``prediction_type``), float32 [B, C, h, w].
        """
        if self.tuned_unet is not None:
            learnt: Tensor = self.tuned_unet(latents, timestep, context)
            return learnt.float()
        if self.compiled_unet is None:
            return self.run_unet(latents, timestep, context)
        # A tensor: a compiled network would be compiled anew for every other number.
        timestep = torch.as_tensor(timestep, device=self.device)
        with self.lock:
            output = self.compiled_unet(
                latents.to(self.dtype), timestep, encoder_hidden_states=context, return_dict=False
            )
        return output[0].float()

    @torch.no_grad()
    def run_unet(self, latents: Tensor, timestep: int | Tensor, context: Tensor) -> Tensor:
        """Do what :meth:`predict` does, never compiled: hooks on its blocks see the pass."""
        with self.lock:
            output = self.unet(
                latents.to(self.dtype), timestep, encoder_hidden_states=context, return_dict=False
            )
        return output[0].float()
