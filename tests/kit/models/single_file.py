"""Stable Diffusion as one file of all weights, in the names that its authors gave them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]

LAYERS_PER_LEVEL = 3
"""Of the U-Net: two layers and a resampling on the way down, three layers on the way up."""


def write_single_file(folder: Path, path: Path) -> Path:
    """Write the weights in a folder of diffusers as one file."""
    weights = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    found = _renamed(weights, "model.diffusion_model.", _unet_rules(weights))
    weights = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    found |= _renamed(weights, "first_stage_model.", _vae_rules(weights))
    weights = load_file(folder / "text_encoder/model.safetensors")
    prefix = "cond_stage_model.transformer."
    found |= _renamed(weights, prefix, [(r"^(?!text_model\.)", "text_model.")])
    save_file(found, path)
    return path


def _renamed(weights: dict[str, Tensor], prefix: str, rules: Rules) -> dict[str, Tensor]:
    found = {}
    for name, tensor in weights.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        # The authors' attention of the autoencoder is a convolution of one pixel.
        is_convolution = ".attn_1." in new and tensor.dim() == 2
        found[prefix + new] = tensor[..., None, None] if is_convolution else tensor
    return found


def _unet_rules(weights: dict[str, Tensor]) -> Rules:
    """Authors count the layers of all levels in one row."""

    def at(found: re.Match[str]) -> int:
        return LAYERS_PER_LEVEL * int(found[1]) + int(found[2])

    def upsampler(found: re.Match[str]) -> str:
        attends = any(name.startswith(f"up_blocks.{found[1]}.attentions") for name in weights)
        return f"output_blocks.{at(found) + 2}.{2 if attends else 1}"

    return [
        (r"^conv_in\.", "input_blocks.0.0."),
        (r"^conv_norm_out\.", "out.0."),
        (r"^conv_out\.", "out.2."),
        (r"^time_embedding\.linear_(\d)", lambda found: f"time_embed.{2 * int(found[1]) - 2}"),
        (r"(resnets\.\d+\.)norm1\.", r"\1in_layers.0."),
        (r"(resnets\.\d+\.)conv1\.", r"\1in_layers.2."),
        (r"(resnets\.\d+\.)norm2\.", r"\1out_layers.0."),
        (r"(resnets\.\d+\.)conv2\.", r"\1out_layers.3."),
        (r"time_emb_proj", "emb_layers.1"),
        (r"conv_shortcut", "skip_connection"),
        (r"mid_block\.attentions\.0", "middle_block.1"),
        (r"mid_block\.resnets\.(\d)", lambda found: f"middle_block.{2 * int(found[1])}"),
        (r"down_blocks\.(\d)\.resnets\.(\d)", lambda found: f"input_blocks.{at(found) + 1}.0"),
        (r"down_blocks\.(\d)\.attentions\.(\d)", lambda found: f"input_blocks.{at(found) + 1}.1"),
        (
            r"down_blocks\.(\d)\.downsamplers\.(\d)\.conv",
            lambda found: f"input_blocks.{at(found) + 3}.0.op",
        ),
        (r"up_blocks\.(\d)\.resnets\.(\d)", lambda found: f"output_blocks.{at(found)}.0"),
        (r"up_blocks\.(\d)\.attentions\.(\d)", lambda found: f"output_blocks.{at(found)}.1"),
        (r"up_blocks\.(\d)\.upsamplers\.(\d)", upsampler),
    ]


def _vae_rules(weights: dict[str, Tensor]) -> Rules:
    """Authors count the decoder's levels from the finest."""
    last = max(int(found[1]) for name in weights if (found := re.search(r"up_blocks\.(\d)", name)))
    return [
        (r"up_blocks\.(\d)", lambda found: f"up.{last - int(found[1])}"),
        (r"down_blocks\.", "down."),
        (r"resnets\.(\d)", r"block.\1"),
        (r"downsamplers\.0", "downsample"),
        (r"upsamplers\.0", "upsample"),
        (r"mid_block\.block\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
        (r"group_norm", "norm"),
        (r"to_([qkv])\.", r"\1."),
        (r"to_out\.0", "proj_out"),
    ]
