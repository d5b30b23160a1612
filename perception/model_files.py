"""Finding pretrained models in a folder or the Hugging Face cache; naming them by content."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers.utils import logging as transformers_logging

from schemas.errors import ConfigError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHUNK_BYTES = 1 << 22


def find_model_folder(
    path_or_id: str | Path,
    *,
    required: Sequence[str],
    patterns: Sequence[str],
    local_files_only: bool = False,
    revision: str | None = None,
) -> Path:
    """Return the local folder of a model given as a path or as a Hugging Face id.

    Args:
        path_or_id: A folder in the form that ``save_pretrained`` writes, or an id like
            ``stable-diffusion-v1-5/stable-diffusion-v1-5``. An existing folder wins over an id.
        required: Files, relative to the folder, without which it is not such a model.
        patterns: What to download when it is an id and not in the cache yet.
        local_files_only: Never download; only look in the cache.
        revision: Branch, tag or commit of the id.

    Returns:
        The folder; every required file exists in it.

    Raises:
        ConfigError: If the folder or one of its files is missing.
    """
    folder = Path(path_or_id).expanduser()
    if not folder.is_dir():
        folder = _download(
            str(path_or_id), patterns, local_files_only=local_files_only, revision=revision
        )
    missing = [name for name in required if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"model folder {folder.absolute()}: wanted {', '.join(required)}; missing "
            f"{', '.join(missing)}. Save the model with save_pretrained, or name another folder"
        )
    return folder


def _download(
    model_id: str, patterns: Sequence[str], *, local_files_only: bool, revision: str | None
) -> Path:
    remedy = (
        "Train or copy the model there, give the path of an existing folder, or a Hugging Face id "
        "that is in the cache or can be downloaded (HF_HUB_OFFLINE unset)"
    )
    try:
        folder = snapshot_download(
            model_id,
            allow_patterns=list(patterns),
            local_files_only=local_files_only,
            revision=revision,
        )
    except HFValidationError as error:
        raise ConfigError(
            f"model folder {Path(model_id).absolute()}: wanted a folder, found none. {remedy}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise ConfigError(
            f"model {model_id!r}: found no folder {Path(model_id).absolute()}, nothing of that "
            f"id in the Hugging Face cache, and could not download it "
            f"({type(error).__name__}). {remedy}"
        ) from error
    return Path(folder)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep the loaders of transformers from drawing progress bars into a worker's log."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turn whatever the loaders of a model folder raise into one message.

    Their readers check little before they use it: what a wrong configuration makes them raise may
    be of any type.

    Raises:
        ConfigError: If the folder's files are not those of such a model.
        UserError: As it was raised inside.
        MemoryError: As it was raised inside: the machine is too small, not the folder wrong.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
        raise ConfigError(
            f"model folder {folder.absolute()}: wanted a model as save_pretrained writes it, "
            f"without code of its own, found {type(error).__name__}: {first[:300]}; copy the "
            "folder again or save the model anew"
        ) from error


def load_network(kind: type[Any], folder: Path, **options: Any) -> Any:
    """Load a network whose every tensor is in the folder's safetensors files.

    Args:
        kind: Its class, of diffusers or transformers.
        options: More arguments of ``from_pretrained``.

    Raises:
        ConfigError: If it cannot be loaded, or a tensor is missing or of another shape: the
            loaders would make it up.
    """
    with loading(folder), without_progress_bars():
        network, found = kind.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    lacking = sorted(str(name) for name in (*found["missing_keys"], *found["mismatched_keys"]))
    if lacking:
        raise ConfigError(
            f"model folder {folder.absolute()}: wanted all tensors of {kind.__name__}, "
            f"{len(lacking)} are missing or of another shape, first {lacking[0]:.200}; copy the "
            "folder again or save the model anew"
        )
    return network


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object such as ``config.json``.

    Raises:
        ConfigError: If the file is not valid JSON or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: wanted JSON, found {error}; copy the file again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: wanted a JSON object, found {type(content).__name__}")
    return content


def weight_files(folder: Path, stem: str, *, variant: str | None = None) -> list[Path]:
    """List the safetensors files of one network, shards included, in name order.

    Args:
        stem: ``diffusion_pytorch_model`` for diffusers, ``model`` for transformers.
        variant: For instance ``fp16``; None for the plain files.

    Raises:
        ConfigError: If there are none.
    """
    name = f"{stem}.{variant}" if variant else stem
    found = [*folder.glob(f"{name}.safetensors"), *folder.glob(f"{name}-*-of-*.safetensors")]
    # A pipe or a device is never read.
    files = sorted(path for path in found if path.is_file())
    if not files:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        raise ConfigError(
            f"{folder}: wanted {name}.safetensors, found {names}; only safetensors are read, "
            "convert other weights with save_pretrained(..., safe_serialization=True)"
        )
    return files


def digest_files(files: Sequence[Path], *, root: Path) -> str:
    """Hash names and contents, in the given order, to 16 hexadecimal digits.

    Args:
        files: Files below ``root``.
        root: Names are taken relative to it, so that moving the folder keeps the digest.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def load_encoder(kind: type[Any], path_or_id: str | Path, **options: Any) -> Any:
    """Load a pretrained image encoder of transformers in float32.

    Args:
        kind: Its class, for instance ``ViTModel``.
        path_or_id: As for :func:`find_model_folder`.
        options: More arguments of ``from_pretrained``.

    Raises:
        ConfigError: If the folder or its files are missing.
    """
    folder = find_model_folder(
        path_or_id, required=("config.json",), patterns=["config.json", "model*.safetensors*"]
    )
    weight_files(folder, "model")
    with loading(folder), without_progress_bars():
        return kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            **options,
        )
