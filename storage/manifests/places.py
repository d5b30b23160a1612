"""Where the manifests of a run's units lie, from listings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.run_layout import (
    COMPACTED_DIR,
    UNITS_DIR,
    compacted_path,
    parse_compacted,
    parse_round_dir,
    parse_unit_manifest,
    unit_manifest_path,
)
from storage.manifests.file import CompactedUnit, compacted_units, parse_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from storage.files.stores import RunStore

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
    """All revisions that have a file of their own, by round, unit and revision: listings alone."""
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


def read_part(
    store: RunStore, number: int, *, columns: Sequence[str] | None = None
) -> tuple[pa.Table, list[CompactedUnit]]:
    """Read a compacted file: its table, with all columns or some, and where each unit lies in it.

    Raises:
        FileNotFoundError: If there is none.
        DamagedShardError: If it cannot be read.
    """
    path = compacted_path(number)
    table = parse_parquet(store.read_bytes(path), origin=store.uri(path), columns=columns)
    return table, compacted_units(table, origin=store.uri(path))


def place_of(each: CompactedUnit, number: int) -> UnitPlace:
    """Where a unit of a compacted file lies."""
    return UnitPlace(each.unit.round, each.unit.unit_id, each.unit.revision, number)


class QuietFolders:
    """When to look at a folder again: the longer nothing has come, the later."""

    def __init__(self) -> None:
        self._looked: dict[str, tuple[float, float]] = {}

    def is_due(self, folder: str, quiet_s: float) -> bool:
        """Whether a folder is to be looked at now, at least every ``quiet_s`` seconds."""
        if folder not in self._looked:
            return True
        looked_at, wait_s = self._looked[folder]
        return time.monotonic() - looked_at >= min(wait_s, quiet_s)

    def note(self, folder: str, *, is_quiet: bool) -> None:
        """Note that a folder was looked at, and whether anything new was there."""
        _, wait_s = self._looked.get(folder, (0.0, 0.0))
        wait_s = max(2 * wait_s, _FIRST_WAIT_S) if is_quiet else 0.0
        self._looked[folder] = time.monotonic(), wait_s
