"""Write trained starter models as `from_pretrained` folders of float16 safetensors."""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, TypeVar

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from kit.starter.configs import make_processor, make_scheduler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import (
        Blip2ForConditionalGeneration,
        CLIPTextModel,
        CLIPTokenizer,
        PreTrainedTokenizerFast,
    )

Model = TypeVar("Model", bound=nn.Module)


def export_diffusion(
    folder: Path,
    *,
    autoencoder: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write a latent diffusion model in diffusers' folder form, replacing the folder.

    Args:
        folder: Where `model_index.json` will lie.
        autoencoder: Encoder and decoder, its `scaling_factor` set.
    """
    pipeline = StableDiffusionPipeline(
        vae=_half(autoencoder),
        text_encoder=_half(text_encoder),
        tokenizer=tokenizer,
        unet=_half(unet),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    _replace(folder, lambda part: pipeline.save_pretrained(part, safe_serialization=True))


def export_captioner(
    folder: Path, *, model: Blip2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write a captioner and its processor in transformers' folder form, replacing the folder.

    Args:
        folder: Where `config.json` will lie.
    """
    processor = make_processor(tokenizer)

    def write(part: Path) -> None:
        _half(model).save_pretrained(part, safe_serialization=True)
        processor.save_pretrained(part)

    _replace(folder, write)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _half(model: Model) -> Model:
    return copy.deepcopy(model).to("cpu", torch.float16).eval()


def _replace(folder: Path, write: Callable[[Path], None]) -> None:
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
