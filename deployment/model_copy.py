"""Which files of the frozen backbone and of an encoder belong into a copy that stands alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perception.diffusion.backbone_files import find_backbone_files
from perception.model_files import find_model_folder
from perception.weight_files import find_weights

if TYPE_CHECKING:
    from pathlib import Path

_INDEX = "model_index.json"


def backbone_files(
    path_or_id: str, *, variant: str | None = None, config: str | None = None
) -> dict[str, Path]:
    """List the files that ``load_backbone`` reads, by their path in the copy.

    Other formats and precisions of the same weights, which hub repositories hold too, are left out.

    Args:
        path_or_id: A backbone that was loaded before: a folder, a hub name in the cache, or one
            file of all weights.
        variant: Preferred variant of weights.
        config: Where the configurations of one file of all weights are.

    Raises:
        ConfigError: If there is no such folder.
    """
    found = find_backbone_files(path_or_id, variant=variant, config=config, local_files_only=True)
    index = found.folder / _INDEX
    return {**({_INDEX: index} if index.is_file() else {}), **found.by_name, **found.indices}


def encoder_files(path_or_id: str) -> dict[str, Path]:
    """List the files of ``method.encoder`` that its method reads, by their path in the copy.

    Args:
        path_or_id: An encoder that was loaded before: a folder, or a hub name in the cache.

    Raises:
        ConfigError: If there is no such folder.
    """
    folder = find_model_folder(path_or_id, required=(), patterns=(), local_files_only=True)
    weights = find_weights(folder, "model")
    files = [folder / "config.json", *weights.files, *([weights.index] if weights.index else [])]
    return {file.name: file for file in files}
