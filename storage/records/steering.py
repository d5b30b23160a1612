"""What a user asks of a running generation: pause, go on, more or fewer generators."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from schemas.errors import ConfigError
from schemas.run_layout import STEERING_FILE

if TYPE_CHECKING:
    from storage.files.stores import RunStore


MOST_GENERATORS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Steering:
    """Wishes that hold until others are written.

    Attributes:
        num_generators: How many generators; None for ``generation.num_generators``.
        is_paused: Whether no unit is handed out; units in the making are finished.
    """

    num_generators: int | None = None
    is_paused: bool = False


def read_steering(store: RunStore) -> Steering:
    """Wishes of a run; the defaults if there are none.

    Raises:
        ConfigError: If the file is not what :func:`write_steering` writes.
    """
    try:
        found = json.loads(store.read_bytes(STEERING_FILE))
    except FileNotFoundError:
        return Steering()
    except (ValueError, RecursionError) as error:
        raise ConfigError(_wrong(store, f"no JSON ({error})")) from error
    if not isinstance(found, dict):
        raise ConfigError(_wrong(store, repr(found)[:80]))
    number, is_paused = found.get("num_generators"), found.get("is_paused", False)
    is_number = number is None or (type(number) is int and 1 <= number <= MOST_GENERATORS)
    if not is_number or not isinstance(is_paused, bool):
        raise ConfigError(_wrong(store, repr(found)[:80]))
    return Steering(num_generators=number, is_paused=is_paused)


def write_steering(store: RunStore, steering: Steering) -> None:
    """Replace the wishes of a run; a running generation follows within seconds."""
    store.write_bytes(STEERING_FILE, json.dumps(asdict(steering)).encode())


def _wrong(store: RunStore, found: str) -> str:
    return (
        f"{store.uri(STEERING_FILE)}: wanted num_generators (null or 1 to {MOST_GENERATORS}) and "
        f"is_paused (true or false), found {found}; write it with jobs/steer.py"
    )
