"""Where the manifests of a run's units lie: each in a file of its own, or many in one."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from schemas.errors import DamagedShardError
from schemas.run_layout import (
    COMPACTED_DIR,
    UNITS_DIR,
    compacted_path,
    parse_compacted,
    parse_round_dir,
    parse_unit_manifest,
    unit_manifest_path,
)
from storage.manifests.file import UnitTable, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

_FIRST_WAIT_S = 1.0


@dataclass(frozen=True, order=True, slots=True)
class UnitPlace:
    """Where a revision of a unit lies.

    Attributes:
        round: Round of the unit.
        unit_id: The unit.
        revision: Which revision.
        part: Number of the compacted file; -1 if it has a file of its own.
    """

    round: int
    unit_id: str
    revision: int
    part: int = -1

    @property
    def path(self) -> str:
        """The file, relative to the run."""
        if self.part >= 0:
            return compacted_path(self.part)
        return unit_manifest_path(
            round_index=self.round, unit_id=self.unit_id, revision=self.revision
        )


def list_revisions(store: RunStore) -> list[UnitPlace]:
    """All revisions that have a file of their own, by round, unit and revision; nothing is read."""
    found: list[UnitPlace] = []
    for folder in store.list_dir(UNITS_DIR):
        found += list_round(store, folder)
    return sorted(found)


def list_round(store: RunStore, folder: str) -> list[UnitPlace]:
    """The revisions with a file of their own in one folder of rounds, in no order."""
    round_index = parse_round_dir(folder)
    if round_index is None:
        return []
    names = map(parse_unit_manifest, store.list_dir(f"{UNITS_DIR}/{folder}"))
    return [UnitPlace(round_index, *parsed) for parsed in names if parsed is not None]


def list_parts(store: RunStore) -> list[int]:
    """Numbers of the compacted files, rising."""
    parsed = (parse_compacted(name) for name in store.list_dir(COMPACTED_DIR))
    return sorted(number for number in parsed if number is not None)


def find_units(store: RunStore) -> list[UnitPlace]:
    """Where the newest revision of every committed unit lies, by round and id.

    Compacted files that cannot be read are left out and logged.
    """
    places, torn = list_all(store)
    for place, error in torn:
        logger.warning("manifest_is_torn path=%s reason=%s", place.path, error)
    return places


def list_all(store: RunStore) -> tuple[list[UnitPlace], list[tuple[UnitPlace, DamagedShardError]]]:
    """As :func:`find_units`, and the compacted files that cannot be read."""
    # Files first: one that disappears meanwhile is in a compacted file by then.
    places = list_revisions(store)
    torn = []
    for number in list_parts(store):
        try:
            places += part_places(store, number)
        except DamagedShardError as error:
            torn.append((UnitPlace(-1, "", 0, number), error))
    # Of equal revisions the compacted one sorts last: a file of its own is older or a late copy.
    places.sort(key=lambda place: (place.revision, place.part))
    return sorted({place.unit_id: place for place in places}.values()), torn


@lru_cache(maxsize=1024)
def part_places(store: RunStore, number: int) -> tuple[UnitPlace, ...]:
    """The units in a compacted file, which never changes, so what is in it is remembered.

    Raises:
        DamagedShardError: If it cannot be read.
    """
    units = [each.unit for each in read_manifest_file(store, compacted_path(number), columns=())]
    return tuple(UnitPlace(unit.round, unit.unit_id, unit.revision, number) for unit in units)


def read_manifest_file(
    store: RunStore, path: str, *, columns: Sequence[str] | None = None
) -> list[UnitTable]:
    """Read the units of a manifest file, with all columns or some.

    Raises:
        FileNotFoundError: If there is none.
        DamagedShardError: If it cannot be read, or holds another unit than its name says.
    """
    data = store.read_bytes(path)
    named = parse_unit_manifest(path.rpartition("/")[2]) if path.startswith(UNITS_DIR) else None
    return parse_manifest(data, origin=store.uri(path), named=named, columns=columns)


class QuietFolders:
    """When to list a folder again: the longer nothing new has come, the later."""

    def __init__(self) -> None:
        self._listed: dict[str, tuple[float, float]] = {}

    def is_due(self, folder: str, quiet_s: float) -> bool:
        """Whether a folder is to be listed now, at least every ``quiet_s`` seconds."""
        if folder not in self._listed:
            return True
        listed_at, wait_s = self._listed[folder]
        return time.monotonic() - listed_at >= min(wait_s, quiet_s)

    def note(self, folder: str, *, is_quiet: bool) -> None:
        """Note that a folder was listed, and whether anything new was there."""
        _, wait_s = self._listed.get(folder, (0.0, 0.0))
        wait_s = max(2 * wait_s, _FIRST_WAIT_S) if is_quiet else 0.0
        self._listed[folder] = time.monotonic(), wait_s
