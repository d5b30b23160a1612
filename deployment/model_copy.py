"""Which files of the frozen backbone and of an encoder belong into a copy that stands alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perception.model_files import find_model_folder
from perception.model_headers import DIFFUSION_WEIGHTS
from perception.weight_files import find_weights

if TYPE_CHECKING:
    from pathlib import Path

_INDEX = "model_index.json"


def backbone_files(path_or_id: str, *, variant: str | None = None) -> dict[str, Path]:
    """List the files that ``load_backbone`` reads, by their path in the copy.

    Other formats and precisions of the same weights, which hub repositories hold too, are left out.

    Args:
        path_or_id: A backbone that was loaded before: a folder, or a hub name in the cache.
        variant: Preferred variant of weights.

    Raises:
        ConfigError: If there is no such folder.
    """
    folder = find_model_folder(path_or_id, required=(), patterns=(), local_files_only=True)
    files = [folder / _INDEX] if (folder / _INDEX).is_file() else []
    files += [file for file in sorted((folder / "tokenizer").iterdir()) if file.is_file()]
    files += sorted((folder / "scheduler").glob("*.json"))
    for part, stem in DIFFUSION_WEIGHTS.items():
        files += [folder / part / "config.json", *_weights(folder / part, stem, variant)]
    return {file.relative_to(folder).as_posix(): file for file in files}


def encoder_files(path_or_id: str) -> dict[str, Path]:
    """List the files of ``method.encoder`` that its method reads, by their path in the copy.

    Args:
        path_or_id: An encoder that was loaded before: a folder, or a hub name in the cache.

    Raises:
        ConfigError: If there is no such folder.
    """
    folder = find_model_folder(path_or_id, required=(), patterns=(), local_files_only=True)
    files = [folder / "config.json", *_weights(folder, "model", None)]
    return {file.name: file for file in files}


def _weights(folder: Path, stem: str, variant: str | None) -> list[Path]:
    found = find_weights(folder, stem, variant=variant)
    return [*found.files, *([found.index] if found.index else [])]
