"""One safetensors file that holds all weights of a Stable Diffusion, in the names of its authors.

``model.diffusion_model.…`` is the U-Net, ``first_stage_model.…`` the autoencoder,
``cond_stage_model.…`` the text encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perception.model_files import expect_content
from perception.weight_files import read_header
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from perception.weight_files import TensorHeader

PREFIXES = {
    "vae": "first_stage_model.",
    "unet": "model.diffusion_model.",
    "text_encoder": "cond_stage_model.",
}
STABLE_DIFFUSION_V1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_WIDTH_OF_V1 = 768
_OF_TORCH = (".ckpt", ".pt", ".pth", ".bin")
_CONV_IN = "input_blocks.0.0.weight"
_OTHERS = {
    "conditioner.": "an SDXL",
    "lora_": "a LoRA, no model",
    "double_blocks.": "a FLUX",
    "joint_blocks.": "a Stable Diffusion 3",
    "down_blocks.": "a U-Net alone, in the names of diffusers",
    "encoder.": "an autoencoder alone",
}


def read_checkpoint_header(path: Path) -> dict[str, TensorHeader]:
    """Read the header of a file of all weights.

    Raises:
        ConfigError: If it is no safetensors file, or holds something else.
    """
    expect_content(path)
    if path.suffix.lower() in _OF_TORCH:
        raise ConfigError(f"{path}: only safetensors are read, {_how_to_convert(path)}")
    if path.suffix.lower() != ".safetensors":
        raise ConfigError(
            f"{path}: only safetensors are read, found {path.suffix or 'no suffix'}; download the "
            "model's .safetensors"
        )
    tensors = read_header(path)
    lacking = [part for part, prefix in PREFIXES.items() if not _starts(tensors, prefix)]
    if lacking:
        found = [what for sign, what in _OTHERS.items() if _holds(tensors, sign)]
        raise ConfigError(
            f"{path}: wanted a whole Stable Diffusion v1 or v2 in its authors' names, found no "
            f"{', '.join(f'{part} ({PREFIXES[part]}…)' for part in lacking)}; it looks like "
            f"{found[0] if found else 'something else'}. Name the whole model's file, or a folder "
            "in the form of diffusers"
        )
    return tensors


def default_config(tensors: Mapping[str, TensorHeader]) -> str | None:
    """Hub name of the model whose configurations fit; None if the header does not say which."""
    return STABLE_DIFFUSION_V1 if context_width(tensors) == _WIDTH_OF_V1 else None


def context_width(tensors: Mapping[str, TensorHeader]) -> int | None:
    """Width of the text embeddings that the U-Net of a file of all weights attends to."""
    for name, tensor in tensors.items():
        if name.startswith(PREFIXES["unet"]) and name.endswith("attn2.to_k.weight"):
            return tensor.shape[-1]
    return None


def expect_fitting_config(
    path: Path, tensors: Mapping[str, TensorHeader], unet: Mapping[str, Any]
) -> None:
    """Check that the configuration of a U-Net is that of a file of all weights.

    Raises:
        ConfigError: If it is of another model.
    """
    conv_in = tensors.get(PREFIXES["unet"] + _CONV_IN)
    pairs = (
        ("in_channels", unet.get("in_channels", 4), conv_in.shape[1] if conv_in else None),
        (
            "block_out_channels",
            next(iter(unet.get("block_out_channels", [320])), None),
            conv_in.shape[0] if conv_in else None,
        ),
        ("cross_attention_dim", unet.get("cross_attention_dim", 1280), context_width(tensors)),
    )
    for name, said, found in pairs:
        if said != found:
            raise ConfigError(
                f"{path}: its U-Net's {name} is {found}, but the configuration says {said}; name "
                "in model.diffusion_config the folder or hub name of the model that it was made "
                "from"
            )


def _starts(tensors: Mapping[str, TensorHeader], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _holds(tensors: Mapping[str, TensorHeader], sign: str) -> bool:
    return any(sign in name for name in tensors)


def _how_to_convert(path: Path) -> str:
    old, new = str(path.absolute()), str(path.absolute().with_suffix(".safetensors"))
    return (
        "if you trust where it comes from, convert it once: "
        'python -c "import torch; from safetensors.torch import save_file; '
        f"w = torch.load('{old}', map_location='cpu', weights_only=True); "
        "w = w.get('state_dict', w); "
        "save_file({k: v.clone() for k, v in w.items() if torch.is_tensor(v)}, "
        f"'{new}')\""
    )
