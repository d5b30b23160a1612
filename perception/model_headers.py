"""What can be known of captioners and encoders without loading them: files and headers.

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

    from perception.weight_files import TensorHeader, WeightFiles

_CAPTIONER_CONFIGS = ("config.json", "tokenizer_config.json")
_CAPTIONER_PATTERNS = ("*.json", "*.txt", "model*.safetensors")
_ENCODER_PATTERNS = ("config.json", "model*.safetensors*")
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
    folder = find_local_model(path_or_id, required=_CAPTIONER_CONFIGS, patterns=_CAPTIONER_PATTERNS)
    if folder is None:
        return None
    found = read_network(folder, find_weights(folder, "model"))
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
    folder = find_local_model(path_or_id, required=("config.json",), patterns=_ENCODER_PATTERNS)
    return None if folder is None else read_network(folder, find_weights(folder, "model"))


def read_network(folder: Path, weights: WeightFiles) -> NetworkHeaders:
    """Read what is known of one network.

    Raises:
        ConfigError: If a file is damaged, cut off or a pointer of git-lfs.
    """
    return NetworkHeaders(
        config=read_json(folder / "config.json"),
        tensors=read_headers(weights.files),
        variant=weights.variant,
        num_bytes=sum(path.stat().st_size for path in weights.files),
    )
