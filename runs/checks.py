"""Checks of a configuration that need more than its own values, before anything is started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import ConfigError
from schemas.paths import resolve_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from schemas.unit import Unit

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


def expect_enough_samples(config: RunConfig, plan: Sequence[Unit]) -> None:
    """Check that the self-improving stage will not wait for more images than are made before it.

    Raises:
        ConfigError: If it would.
    """
    wanted, lead = config.training.min_synthetic_samples, config.generation.max_lead
    first = [unit for unit in plan if unit.kind == "synthesize" and unit.round <= lead]
    made = sum(unit.num_samples for unit in first)
    if wanted > made:
        raise ConfigError(
            f"training.min_synthetic_samples = {wanted}: the plan makes {made} images before "
            f"training begins; set it to at most {made}, or raise source.num_labelled or "
            "plan.variants"
        )


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
