"""The frozen latent diffusion model that every method shares."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel

from perception.diffusion.schedule import NoiseSchedule
from perception.diffusion.text import PromptEncoder
from perception.model_files import digest_files, find_model_folder, read_json
from perception.model_headers import DIFFUSION_CONFIGS, DIFFUSION_WEIGHTS, expect_fitting_parts
from perception.model_loading import load_network, loading
from perception.weight_files import find_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from perception.weight_files import WeightFiles

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
    options: BackboneOptions | None = None,
) -> DiffusionBackbone:
    """Load a Stable Diffusion v1/v2 checkpoint, frozen.

    Args:
        path_or_id: A folder in the form of ``StableDiffusionPipeline.save_pretrained`` or a Hugging
            Face id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``.
        dtype: Dtype of weights and activations; latents and the sampler's arithmetic stay float32.
        revision: Branch, tag or commit of a Hugging Face id.
        variant: Weight variant to prefer, for instance ``fp16``; found by itself where there is no
            choice.
        options: The defaults of ``BackboneOptions`` if None.

    Returns:
        The backbone in eval mode; no parameter requires a gradient.

    Raises:
        ConfigError: If files are missing or the parts do not fit together.
    """
    folder = find_model_folder(
        path_or_id,
        required=DIFFUSION_CONFIGS,
        patterns=_download_patterns(variant),
        local_files_only=local_files_only,
        revision=revision,
    )
    weights = {
        part: find_weights(folder / part, stem, variant=variant)
        for part, stem in DIFFUSION_WEIGHTS.items()
    }
    vae, unet, text_encoder = _load_networks(folder, weights, dtype=dtype)
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
    tokenizer_files = sorted(path for path in (folder / "tokenizer").iterdir() if path.is_file())
    config_files = [
        folder / name for name in DIFFUSION_CONFIGS if not name.startswith("tokenizer/")
    ]
    weight_files = [path for each in weights.values() for path in each.files]
    backbone = DiffusionBackbone(
        vae=vae,
        unet=unet,
        prompts=PromptEncoder(tokenizer, text_encoder),
        schedule=schedule,
        model_id=digest_files([*config_files, *tokenizer_files, *weight_files], root=folder),
        device=torch.device(device),
        dtype=dtype,
        compiled_unet=torch.compile(unet) if options.compile_unet else None,
    )
    logger.info("backbone_loaded", extra={"path": str(folder), "model_id": backbone.model_id})
    return backbone


def _download_patterns(variant: str | None) -> list[str]:
    """Name only the files that are read: checkpoints carry several copies of their weights."""
    suffix = f".{variant}" if variant else ""
    patterns = ["model_index.json", "*/*config.json", "tokenizer/*"]
    for part, stem in DIFFUSION_WEIGHTS.items():
        patterns += [
            f"{part}/{stem}{suffix}.safetensors",
            f"{part}/{stem}{suffix}-*-of-*.safetensors",
        ]
        patterns += [f"{part}/{stem}.safetensors.index{suffix}.json"]
    return patterns


def _load_networks(
    folder: Path, weights: Mapping[str, WeightFiles], *, dtype: torch.dtype
) -> list[Any]:
    """Load autoencoder, U-Net and text encoder."""
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
    return [
        load_network(
            kind,
            folder,
            subfolder=part,
            variant=weights[part].variant,
            local_files_only=True,
            **options,
        )
        for part, kind, options in kinds
    ]


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
    """

    vae: Any
    unet: Any
    prompts: PromptEncoder
    schedule: NoiseSchedule
    model_id: str
    device: torch.device
    dtype: torch.dtype
    compiled_unet: Any = None
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
