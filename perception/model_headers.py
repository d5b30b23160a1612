"""What can be known of the frozen models without loading them: files, headers, what fits together.

Only small files and the headers of weights are read, so that a dry run of a run with models of many
gigabytes takes a moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perception.model_files import find_local_model, read_json
from perception.weight_files import find_weights, read_headers
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from perception.weight_files import TensorHeader

DIFFUSION_CONFIGS = (
    "vae/config.json",
    "unet/config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer_config.json",
    "scheduler/scheduler_config.json",
)
DIFFUSION_WEIGHTS = {
    "vae": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
    "text_encoder": "model",
}
CAPTIONER_CONFIGS = ("config.json", "tokenizer_config.json")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkHeaders:
    """One network: its configuration and the headers of its weights.

    Attributes:
        config: ``config.json``.
        tensors: Type and shape of each tensor, by name.
        variant: Of its files' names, for instance ``fp16``.
        num_bytes: Size of its files.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]
    variant: str | None
    num_bytes: int

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Types of its tensors as safetensors writes them (``F32``, ``F16``, ...)."""
        return tuple(sorted({each.dtype for each in self.tensors.values()}))


def read_diffusion_headers(
    path_or_id: str | Path, *, variant: str | None = None
) -> dict[str, NetworkHeaders] | None:
    """Check a Stable Diffusion checkpoint as far as its small files and headers tell.

    Args:
        path_or_id: As for ``load_backbone``.
        variant: Preferred variant of weights.

    Returns:
        ``vae``, ``unet`` and ``text_encoder``; None for a name on the hub that is not (completely)
        in the cache and may be downloaded later.

    Raises:
        ConfigError: If a file is missing, damaged, cut off or a pointer of git-lfs, if the weights
            are not safetensors, several variants leave a choice, or the parts do not fit together;
            or if the model is not in the cache and HF_HUB_OFFLINE is set.
    """
    folder = find_local_model(path_or_id, required=DIFFUSION_CONFIGS)
    if folder is None:
        return None
    found = {
        part: _network(folder / part, stem, variant) for part, stem in DIFFUSION_WEIGHTS.items()
    }
    for name in DIFFUSION_CONFIGS:
        read_json(folder / name)
    expect_fitting_parts(folder, {part: each.config for part, each in found.items()})
    return found


def read_captioner_headers(path_or_id: str | Path, *, is_blip2: bool) -> NetworkHeaders | None:
    """Check a captioner as far as its small files and headers tell.

    Args:
        path_or_id: As for ``Blip2Captioner.load`` and ``ImageToTextCaptioner.load``.
        is_blip2: Whether it has to be a BLIP-2, or has to be none.

    Returns:
        None for a name on the hub that is not (completely) in the cache and may be downloaded
        later.

    Raises:
        ConfigError: If a file is missing, damaged, cut off or a pointer of git-lfs, the weights are
            not safetensors, or the model is of the other kind; or if it is not in the cache and
            HF_HUB_OFFLINE is set.
    """
    folder = find_local_model(path_or_id, required=CAPTIONER_CONFIGS)
    if folder is None:
        return None
    found = _network(folder, "model", None)
    kind = str(found.config.get("model_type", "unknown"))
    if (kind == "blip-2") != is_blip2:
        raise ConfigError(
            f"captioner {folder}: found a {kind}; use model.captioner "
            f"{'image_to_text' if is_blip2 else 'blip2'} for it"
        )
    read_json(folder / "tokenizer_config.json")
    processors = [folder / name for name in _PROCESSORS if (folder / name).is_file()]
    if not processors:
        raise ConfigError(
            f"captioner {folder}: wanted {' or '.join(_PROCESSORS)}, found neither; copy the whole "
            "folder, or save the model's processor there"
        )
    for path in processors:
        read_json(path)
    return found


def read_encoder_headers(path_or_id: str | Path) -> NetworkHeaders | None:
    """Check an image encoder (``method.encoder``) as far as its small files and headers tell.

    Returns:
        None for a name on the hub that is not (completely) in the cache and may be downloaded
        later.

    Raises:
        ConfigError: If a file is missing, damaged, cut off or a pointer of git-lfs, or the weights
            are not safetensors; or if it is not in the cache and HF_HUB_OFFLINE is set.
    """
    folder = find_local_model(path_or_id, required=("config.json",))
    return None if folder is None else _network(folder, "model", None)


def expect_fitting_parts(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that autoencoder, U-Net and text encoder belong together.

    Args:
        folder: Named in the message.
        configs: Configurations of ``vae``, ``unet`` and ``text_encoder``.

    Raises:
        ConfigError: If they do not.
    """
    vae, unet, text = configs["vae"], configs["unet"], configs["text_encoder"]
    latent_channels = vae.get("latent_channels", 4)
    pairs = (
        ("in_channels", unet.get("in_channels", 4), latent_channels),
        ("out_channels", unet.get("out_channels", 4), latent_channels),
        (
            "cross_attention_dim",
            unet.get("cross_attention_dim", 1280),
            text.get("hidden_size", 512),
        ),
    )
    for name, found, wanted in pairs:
        if found != wanted:
            raise ConfigError(
                f"{folder}: wanted U-Net {name} {wanted} to fit the autoencoder and text encoder, "
                f"found {found}; use a Stable Diffusion v1 or v2 for text-to-image (no SDXL, no "
                "inpainting, no upscaling)"
            )


def _network(folder: Path, stem: str, variant: str | None) -> NetworkHeaders:
    weights = find_weights(folder, stem, variant=variant)
    return NetworkHeaders(
        config=read_json(folder / "config.json"),
        tensors=read_headers(weights.files),
        variant=weights.variant,
        num_bytes=sum(path.stat().st_size for path in weights.files),
    )
