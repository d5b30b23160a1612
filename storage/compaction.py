"""Compaction: the manifests of many units in one file, so that listings stay short."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from schemas.errors import AlreadyCommittedError, DamagedShardError
from schemas.run_layout import compacted_path
from storage.manifest_file import commit_of, parse_parquet, units_to_parquet
from storage.manifest_table import UnitPlace, find_units, list_parts, list_revisions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from storage.filesystem import RunStore

logger = logging.getLogger(__name__)

UNITS_PER_FILE = 256


def plan_compaction(
    places: Sequence[UnitPlace], *, units_per_file: int, keep_rest: bool = True
) -> list[list[UnitPlace]]:
    """Group the units that lie in files of their own.

    Args:
        places: The newest revision of every unit.
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
    compact at once, the second finds its number taken and looks again. A process that is killed
    leaves what it had written; the next one goes on from there.

    Args:
        store: The run.
        units_per_file: Units that go into one compacted file.
        keep_rest: Leave what does not fill a file as it is.
        on_file: Told path and number of units of each file written.

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
                path = compacted_path(number)
                tables = _tables(store, group)
                if tables:
                    store.put_if_absent(path, units_to_parquet(tables))
                    number, written = number + 1, written + 1
                    on_file(path, len(tables))
        except AlreadyCommittedError:
            logger.warning("compaction_is_contended path=%s", path)
            continue
        return written


def replaced_manifests(store: RunStore) -> list[tuple[UnitPlace, int]]:
    """Units' own manifest files that a compacted file replaces, and the number of that file.

    Ordered so that removing them one after the other never uncovers an older revision.
    """
    newest = {place.unit_id: place for place in find_units(store)}
    found = []
    for place in list_revisions(store):
        standing = newest[place.unit_id]
        if standing.part >= 0 and place.revision <= standing.revision:
            found.append((place, standing.part))
    return found


def _tables(store: RunStore, places: Sequence[UnitPlace]) -> list[pa.Table]:
    """Tables of units that can be read; torn ones stay where they are."""
    tables = []
    for place in places:
        origin = store.uri(place.path)
        try:
            table = parse_parquet(store.read_bytes(place.path), origin=origin)
            commit_of(table, origin=origin, unit_id=place.unit_id)
        except DamagedShardError as error:
            logger.warning("manifest_is_torn unit=%s reason=%s", place.unit_id, error)
            continue
        tables.append(table)
    return tables
