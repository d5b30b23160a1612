"""Finding pretrained models in a folder or the Hugging Face cache; naming them by content.

Neither torch nor transformers is imported: a driver looks at models without loading them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from schemas.errors import ConfigError
from schemas.plain_files import open_plain, read_plain, why_not

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CHUNK_BYTES = 1 << 22
_HEAD_BYTES = 1024
_HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)", re.IGNORECASE)
_POINTER = b"version https://git-lfs"
_REMEDY = (
    "Train or copy the model there, give the path of an existing folder, or a Hugging Face id that "
    "is in the cache or can be downloaded (HF_HUB_OFFLINE unset)"
)


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
    if missing := _missing(folder, required):
        raise ConfigError(_incomplete(folder, required, missing))
    return folder


def find_local_model(
    path_or_id: str | Path, *, required: Sequence[str], patterns: Sequence[str]
) -> Path | None:
    """Return the local folder of a model without downloading anything.

    Args:
        path_or_id: As for :func:`find_model_folder`.
        required: Files, relative to the folder, without which it is not such a model.
        patterns: What would be downloaded.

    Returns:
        None for an id that is not (completely) in the cache and may be downloaded later.

    Raises:
        ConfigError: If the folder or one of its files is missing, or the id is not in the cache and
            may not be downloaded.
    """
    may_download = not constants.HF_HUB_OFFLINE
    folder = Path(path_or_id).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(path_or_id), local_files_only=True))
        except HFValidationError as error:
            raise ConfigError(_no_folder(path_or_id)) from error
        except LocalEntryNotFoundError as error:
            if may_download:
                return None
            raise ConfigError(_not_cached(str(path_or_id), patterns, error)) from error
        if may_download and _missing(folder, required):
            return None
    if missing := _missing(folder, required):
        raise ConfigError(_incomplete(folder, required, missing))
    return folder


def _download(
    model_id: str, patterns: Sequence[str], *, local_files_only: bool, revision: str | None
) -> Path:
    try:
        folder = snapshot_download(
            model_id,
            allow_patterns=list(patterns),
            local_files_only=local_files_only,
            revision=revision,
        )
    except HFValidationError as error:
        raise ConfigError(_no_folder(model_id)) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise ConfigError(_not_cached(model_id, patterns, error)) from error
    return Path(folder)


def _missing(folder: Path, required: Sequence[str]) -> list[str]:
    return [name for name in required if not (folder / name).is_file()]


def _incomplete(folder: Path, required: Sequence[str], missing: Sequence[str]) -> str:
    return (
        f"model folder {folder.absolute()}: wanted {', '.join(required)}; missing "
        f"{', '.join(missing)}{_other_pipeline(folder)}. Save the model with save_pretrained, or "
        "name another folder"
    )


def _other_pipeline(folder: Path) -> str:
    """Of which pipeline a folder is that lacks files of Stable Diffusion."""
    try:
        name = str(read_json(folder / "model_index.json").get("_class_name"))[:80]
    except (OSError, ConfigError):
        return ""
    return "" if name == "StableDiffusionPipeline" else f" (its model_index.json says {name})"


def _no_folder(path: str | Path) -> str:
    found = "a file" if Path(path).is_file() else "none"
    return f"model folder {Path(path).absolute()}: wanted a folder, found {found}. {_REMEDY}"


def _not_cached(model_id: str, patterns: Sequence[str], error: Exception) -> str:
    return (
        f"model {model_id!r}: found no folder {Path(model_id).absolute()}, nothing of that id in "
        f"the Hugging Face cache {constants.HF_HUB_CACHE}, and could not download it "
        f"({'HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else type(error).__name__}). "
        f"{_REMEDY}, for instance by: hf download {model_id} --include {shlex.join(patterns)}"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object such as ``config.json``.

    Raises:
        ConfigError: If the file is not valid JSON or not an object.
    """
    expect_content(path)
    try:
        content = json.loads(read_plain(path).decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: wanted JSON, found {error}; copy the file again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: wanted a JSON object, found {type(content).__name__}")
    return content


def expect_content(path: Path) -> None:
    """Refuse what lies in place of a model's file: a named pipe, a pointer, a page of a web site.

    Raises:
        ConfigError: If the file cannot be read, or is a pointer of git-lfs, HTML or GGUF.
    """
    try:
        with open_plain(path) as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: {why_not(error)}") from error
    if head.startswith(_POINTER):
        raise ConfigError(
            f"{path}: wanted the file, found a pointer of git-lfs to it; fetch it: "
            f"git lfs install && git -C {path.parent} lfs pull"
        )
    if _HTML.match(head):
        raise ConfigError(f"{path}: found an HTML page; download the file itself")
    if head.startswith(b"GGUF"):
        raise ConfigError(
            f"{path}: found GGUF, whose numbers are rounded for other programs; download the "
            "model's safetensors"
        )


def digest_files(files: Mapping[str, Path]) -> str:
    """Hash names and contents, in the given order, to 16 hexadecimal digits.

    Args:
        files: By a name that does not tell where they lie.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, path in files.items():
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with open_plain(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
