"""The run directory belongs to one configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.config_file import dump_config, parse_config, parse_tree
from schemas.errors import AlreadyCommittedError, ConfigError, UserError
from schemas.run_layout import CONFIG_FILE

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from storage.files.stores import RunStore


def claim_run_directory(store: RunStore, config: RunConfig) -> None:
    """Write config.resolved.yaml, or check that the one there is equal.

    What an older version of the project did not write has its default value.

    Raises:
        ConfigError: If the directory holds a run of another configuration.
    """
    wanted = dump_config(config)
    try:
        store.put_if_absent(CONFIG_FILE, wanted.encode())
    except AlreadyCommittedError:
        found = store.read_bytes(CONFIG_FILE).decode()
        if found != wanted and _with_defaults(found, store.uri(CONFIG_FILE)) != wanted:
            raise ConfigError(
                f"run.url = {config.run.url!r}: holds a run of another configuration\n"
                f"{_first_difference(found, wanted)}\n"
                "choose another run.url, or go on with the configuration it was started with"
            ) from None


def _with_defaults(text: str, origin: str) -> str:
    """A stored configuration as this version of the project writes it; as it is if it cannot."""
    try:
        return dump_config(parse_config(parse_tree(text.encode(), origin=origin), origin=origin))
    except UserError:
        return text


def _first_difference(found: str, wanted: str) -> str:
    pairs = zip(found.splitlines(), wanted.splitlines(), strict=False)
    for number, (old, new) in enumerate(pairs, start=1):
        if old != new:
            return f"  line {number} of {CONFIG_FILE}: there {old.strip()!r}, now {new.strip()!r}"
    return f"  {CONFIG_FILE} has other lines at its end"
