"""Loading pretrained networks: whatever their files do wrong becomes one message."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging as transformers_logging

from perception.model_files import find_model_folder
from perception.weight_files import find_weights
from schemas.errors import ConfigError, UserError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
        raise ConfigError(
            f"model folder {folder.absolute()}: wanted a model as save_pretrained writes it, "
            f"without code of its own, found {type(error).__name__}: {first_line(error)}; copy the "
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
    find_weights(folder, "model")
    with loading(folder), without_progress_bars():
        if torch.get_default_device().type == "meta":
            # There only shapes count; the loaders refuse to load into it.
            return kind(kind.config_class.from_pretrained(folder, local_files_only=True), **options)
        return kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            **options,
        )
