"""Compaction: the manifests of many units in one file, so that listings stay short."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from schemas.errors import AlreadyCommittedError, DamagedShardError
from schemas.run_layout import compacted_path
from storage.manifests.file import UnitTable, outcome_of_table, units_to_parquet
from storage.manifests.places import (
    UnitPlace,
    find_units,
    list_parts,
    list_revisions,
    read_manifest_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from schemas.unit import Unit
    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

UNITS_PER_FILE = 256

_READERS = 8
_FILES_PER_TURN = 16

GRACE_S = 600.0
"""Longer than any reader takes from listing a folder to reading what it found there."""


def plan_compaction(
    places: Sequence[UnitPlace], *, units_per_file: int, keep_rest: bool = True
) -> list[list[UnitPlace]]:
    """Group the units that lie in files of their own.

    Args:
        units_per_file: Units that go into one compacted file.
        keep_rest: Leave what does not fill a file as it is.

    Returns:
        Groups in the order of rounds and ids.
    """
    single = sorted(place for place in places if place.part < 0)
    groups = [single[i : i + units_per_file] for i in range(0, len(single), units_per_file)]
    return [group for group in groups if len(group) == units_per_file or not keep_rest]


def compact(
    store: RunStore,
    *,
    units_per_file: int = UNITS_PER_FILE,
    keep_rest: bool = True,
    on_file: Callable[[str, int], None] = lambda _path, _units: None,
) -> int:
    """Write compacted files; the units' own manifests stay until the garbage collector comes.

    Each file appears whole, under the next number and only if that is free: of two processes that
    compact at once, the second finds its number taken and starts again. A process that is killed
    leaves what it had written; the next one goes on from there.

    Args:
        units_per_file: Units that go into one compacted file.
        keep_rest: Leave what does not fill a file as it is.
        on_file: Called with path and number of units of each file written.

    Returns:
        The number of files written.
    """
    written = 0
    while True:
        # The number is chosen before the units: a file written meanwhile takes it.
        number = max(list_parts(store), default=-1) + 1
        groups = plan_compaction(
            find_units(store), units_per_file=units_per_file, keep_rest=keep_rest
        )
        if not groups:
            return written
        try:
            for group in groups:
                num_units = _write_file(store, group, number)
                if num_units:
                    on_file(compacted_path(number), num_units)
                    number, written = number + 1, written + 1
        except AlreadyCommittedError as error:
            logger.warning("compaction_is_contended: %s", error)
            continue
        return written


def replaced_manifests(store: RunStore) -> list[tuple[str, str]]:
    """Paths of units' own manifest files, each with that of the compacted file that replaces it.

    Ordered so that removing them one after the other never uncovers an older revision.
    """
    newest = {place.unit_id: place for place in find_units(store)}
    found = []
    for place in list_revisions(store):
        # A unit that was committed between the two listings is not replaced by anything.
        compacted = newest.get(place.unit_id)
        if compacted and compacted.part >= 0 and place.revision <= compacted.revision:
            found.append((place.path, compacted.path))
    return found


class Compactor:
    """Compacts a run while it goes on, and removes the files that were replaced.

    It remembers what the compacted files hold, so that a turn costs what has come since the last.
    Whoever reads manifests by :mod:`storage.manifests.table` finds in a compacted file what is gone
    from a folder that it has just listed; other readers have a while to do so.

    Args:
        last_round: Last round that labels the images of round 0 again; 0 if none does. Until it
            has, the files of the unit that made them stay: each labelling reads them, and finds
            them by their names.
        units_per_file: Units that go into one compacted file.
        grace_s: How long a file stays after this object has first seen what replaces it.
        clock: Seconds that only ever rise.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        last_round: int,
        units_per_file: int = UNITS_PER_FILE,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._last_round = last_round
        self._units_per_file = units_per_file
        self._grace_s = grace_s
        self._clock = clock
        self._next = 0
        self._seen_at: dict[int, float] = {}
        self._compacted: dict[str, UnitPlace] = {}
        self._rounds: dict[str, int] = {}
        self._image_units: set[str] = set()

    def turn(self) -> tuple[int, int]:
        """Write some of the files that can be filled, and remove what was replaced long enough ago.

        Returns:
            The number of compacted files written and of units' files removed.

        Raises:
            OSError: If the store cannot be reached; the next turn goes on.
        """
        places = list_revisions(self._store)
        self._look()
        compacted = self._compacted
        single = [
            place
            for place in places
            if place.unit_id not in compacted or place.revision > compacted[place.unit_id].revision
        ]
        newest = {place.unit_id: place for place in single}
        written = self._write(list(newest.values()))
        self._look()
        return written, self._remove(places)

    def _write(self, places: Sequence[UnitPlace]) -> int:
        number = self._next
        try:
            groups = plan_compaction(places, units_per_file=self._units_per_file)
            for group in groups[:_FILES_PER_TURN]:
                number += bool(_write_file(self._store, group, number))
        except AlreadyCommittedError as error:
            # Another process compacts, too: the next turn sees what is left to do.
            logger.warning("compaction_is_contended: %s", error)
        return number - self._next

    def _look(self) -> None:
        """Learn what compacted files hold that have not been seen."""
        for number in list_parts(self._store):
            self._next = number + 1
            if number in self._seen_at:
                continue
            try:
                path = compacted_path(number)
                units = [each.unit for each in read_manifest_file(self._store, path, columns=())]
            except DamagedShardError as error:
                logger.warning("manifest_is_torn path=%s reason=%s", path, error)
                continue
            self._seen_at[number] = self._clock()
            for unit in units:
                self._learn(unit, UnitPlace(unit.round, unit.unit_id, unit.revision, number))

    def _learn(self, unit: Unit, place: UnitPlace) -> None:
        known = self._compacted.get(place.unit_id)
        if known is None or place.revision >= known.revision:
            self._compacted[place.unit_id] = place
        if self._last_round and unit.kind == "synthesize":
            self._image_units.add(unit.unit_id)
        images = unit.image_unit_id
        self._rounds[images] = max(unit.round, self._rounds.get(images, 0))
        if self._rounds[images] >= self._last_round:
            del self._rounds[images]
            self._image_units.discard(images)

    def _remove(self, places: Iterable[UnitPlace]) -> int:
        # By round, unit and revision: no removal uncovers an older revision.
        gone = [place for place in places if self._may_go(place)]
        for place in gone:
            self._store.remove_file(place.path)
        return len(gone)

    def _may_go(self, place: UnitPlace) -> bool:
        compacted = self._compacted.get(place.unit_id)
        if compacted is None or place.revision > compacted.revision:
            return False
        age_s = self._clock() - self._seen_at[compacted.part]
        return age_s >= self._grace_s and place.unit_id not in self._image_units


def _write_file(store: RunStore, places: Sequence[UnitPlace], number: int) -> int:
    """Write a compacted file; returns the units in it, 0 if none could be read."""
    # A store answers many small questions at once.
    with ThreadPoolExecutor(_READERS) as pool:
        units = [each for found in pool.map(partial(_read_whole, store), places) for each in found]
    if units:
        store.put_if_absent(compacted_path(number), units_to_parquet(units))
    return len(units)


def _read_whole(store: RunStore, place: UnitPlace) -> list[UnitTable]:
    """A unit to compact; nothing if it is torn: it stays where it is."""
    try:
        units = read_manifest_file(store, place.path)
        for each in units:
            outcome_of_table(each)
    except DamagedShardError as error:
        logger.warning("manifest_is_torn path=%s reason=%s", place.path, error)
        return []
    return units
