"""The frozen models that a configuration names, before any is loaded."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perception.diffusion.headers import read_diffusion_headers
from perception.model_headers import read_captioner_headers, read_encoder_headers
from schemas.errors import ConfigError
from schemas.paths import resolve_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from perception.model_headers import NetworkHeaders
    from schemas.config import RunConfig

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def expect_models(
    config: RunConfig, *, with_captioner: bool = True
) -> Mapping[str, NetworkHeaders] | None:
    """Check the files of the frozen models and the headers of their weights; nothing is loaded.

    A name on the hub that is not in the cache is left to the loader.

    Returns:
        Headers of the networks of ``model.diffusion``; None if it or ``method.encoder`` has yet to
        be downloaded.

    Raises:
        ConfigError: If a model is missing, incomplete, damaged or of another kind.
    """
    model, encoder = config.model, config.method.encoder
    with _naming("model.diffusion", model.diffusion) as path:
        config_folder = model.diffusion_config and resolve_path(model.diffusion_config)
        found = read_diffusion_headers(path, variant=model.variant, config=config_folder)
    if encoder is not None:
        with _naming("method.encoder", encoder) as path:
            found = found if read_encoder_headers(path) else None
    if with_captioner and model.captioner in {"blip2", "image_to_text"}:
        with _naming("model.captioner_path", model.captioner_path) as path:
            read_captioner_headers(path, is_blip2=model.captioner == "blip2")
    return found


@contextmanager
def _naming(field: str, name: str) -> Iterator[str]:
    """Give the path of a model and put the field's name before what is wrong with it.

    Raises:
        ConfigError: As it was raised inside, or if there is no such model.
    """
    path = resolve_path(name)
    folder = Path(path).expanduser()
    if not folder.exists() and not _is_on_hub(name):
        raise ConfigError(
            f"{field} = {name}: no folder or file {folder.absolute()}; name an existing one (the "
            "shipped models are in starter/), or a Hugging Face model as owner/name"
        )
    try:
        yield path
    except ConfigError as error:
        raise ConfigError(f"{field} = {name}: {error}") from error


def _is_on_hub(name: str) -> bool:
    """Whether a name may be ``owner/name``: what begins with a folder that exists is a path."""
    owner = name.split("/", maxsplit=1)[0]
    return _HUB_NAME.fullmatch(name) is not None and not Path(resolve_path(owner)).is_dir()
