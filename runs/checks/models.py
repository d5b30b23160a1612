"""The frozen models that a configuration names, before any is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import ConfigError
from schemas.paths import resolve_path

if TYPE_CHECKING:
    from schemas.config import RunConfig

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def expect_models(config: RunConfig, *, with_captioner: bool = True) -> None:
    """Look for the folders of the frozen models; a name on the hub is left to the loader.

    Raises:
        ConfigError: If there is no such folder.
    """
    _expect_folder("model.diffusion", config.model.diffusion)
    if config.method.encoder is not None:
        _expect_folder("method.encoder", config.method.encoder)
    if with_captioner and config.model.captioner in {"blip2", "image_to_text"}:
        _expect_folder("model.captioner_path", config.model.captioner_path)


def _expect_folder(field: str, name: str) -> None:
    folder = Path(resolve_path(name)).expanduser()
    if folder.is_dir() or _is_on_hub(name):
        return
    raise ConfigError(
        f"{field} = {name}: no folder {folder.absolute()}; name an existing one (the shipped "
        "models are in starter/), or a Hugging Face model as owner/name"
    )


def _is_on_hub(name: str) -> bool:
    """Whether a name may be ``owner/name``: what begins with a folder that exists is a path."""
    owner = name.split("/", maxsplit=1)[0]
    return _HUB_NAME.fullmatch(name) is not None and not Path(resolve_path(owner)).is_dir()
