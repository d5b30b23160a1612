"""Unit manifests: commit a unit's rows as one Parquet file, find and read committed units.

A unit may have several revisions (``manifest/units/r=…/<unit>.parquet``, ``….rev-0001.parquet``,
…): the greatest counts. Many units may also lie together in ``manifest/compacted/``; of the same
revision in both places, the compacted one counts.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

import pyarrow as pa

from schemas.errors import AlreadyCommittedError, DamagedShardError
from schemas.run_layout import UNITS_DIR, compacted_path, unit_manifest_path
from storage.manifests.file import (
    MANIFEST_SCHEMA,
    CompactedUnit,
    commit_of,
    compacted_commit,
    compacted_outcomes,
    outcome_of_table,
    parse_parquet,
    unit_to_parquet,
)
from storage.manifests.places import (
    QuietFolders,
    UnitPlace,
    list_parts,
    list_revisions,
    list_round,
    place_of,
    read_part,
)
from storage.manifests.unit_outcome import (
    OUTCOME_COLUMNS,
    UnitCommit,
    UnitOutcome,
    check_commit,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from storage.files.stores import RunStore

__all__ = [
    "MANIFEST_SCHEMA",
    "ManifestReader",
    "OutcomeReader",
    "UnitCommit",
    "UnitPlace",
    "commit_unit",
    "find_units",
    "iterate_units",
    "list_committed",
    "list_parts",
    "list_revisions",
    "manifest_table",
    "read_part",
    "read_unit",
]

logger = logging.getLogger(__name__)

_LOOKS = 3

Found = TypeVar("Found")


def commit_unit(store: RunStore, commit: UnitCommit) -> bool:
    """Make a unit visible, if nobody else has: the tar that its rows name must be written before.

    A manifest that stands there but cannot be read (its disk lost power, a copy of the run was cut
    off) is never replaced: it may be in the making. The unit is committed as its next revision,
    which counts instead.

    Returns:
        True if this attempt's manifest is visible, now or since an earlier call; False if
        another attempt's is, and this one's tar is never read.

    Raises:
        ValueError: If the rows do not belong to the unit and the attempt, or a key comes twice.
    """
    check_commit(commit)
    while True:
        unit = commit.unit
        place = UnitPlace(unit.round, unit.unit_id, unit.revision)
        try:
            store.put_if_absent(place.path, unit_to_parquet(commit))
        except AlreadyCommittedError:
            try:
                # Ours, too, when the store answered a repeated request whose first try succeeded.
                return _read_file(store, place).attempt == commit.attempt
            except DamagedShardError as error:
                logger.warning("manifest_is_superseded unit=%s reason=%s", unit.unit_id, error)
                commit = replace(commit, unit=replace(unit, revision=unit.revision + 1))
        else:
            return True


def read_unit(
    store: RunStore, round_index: int, unit_id: str, *, has_own_file: bool = False
) -> UnitCommit:
    """Read the newest revision of a committed unit that can be read.

    Args:
        store: The run.
        round_index: Round of the unit.
        unit_id: The unit.
        has_own_file: Whether the unit is known to be kept in files of its own, as one whose images
            are to be labelled again: then compacted files are looked at only if there is none.

    Raises:
        FileNotFoundError: If it is not committed.
        DamagedShardError: If none of its manifests can be read.
    """
    newest: UnitCommit | None = None
    torn: DamagedShardError | None = None
    # A second look finds what was compacted, and its file removed, since the first.
    for is_own in (has_own_file, False, False):
        newest = None if is_own else _read_compacted(store, unit_id)
        revision = 0 if newest is None else newest.unit.revision + 1
        while True:
            try:
                newest = _read_file(store, UnitPlace(round_index, unit_id, revision))
            except FileNotFoundError:
                break
            except DamagedShardError as error:
                torn = error
            revision += 1
        if newest is not None:
            return newest
    if torn is not None:
        raise torn
    path = unit_manifest_path(round_index=round_index, unit_id=unit_id)
    raise FileNotFoundError(f"{store.uri(path)}: the unit is not committed")


def list_committed(store: RunStore) -> dict[str, int]:
    """Ids of all committed units and the round of each."""
    return {place.unit_id: place.round for place in find_units(store)}


def find_units(store: RunStore) -> list[UnitPlace]:
    """Where the newest revision of every committed unit lies, by round and id.

    Compacted files that cannot be read are left out and logged.
    """
    # Files first: one that disappears meanwhile is in a compacted file by then.
    places = list_revisions(store)
    for number in list_parts(store):
        try:
            places += _part_places(store, number)
        except DamagedShardError as error:
            logger.warning("manifest_is_torn part=%s reason=%s", number, error)
    return _newest(places)


def iterate_units(store: RunStore) -> Iterator[tuple[UnitPlace, UnitCommit | DamagedShardError]]:
    """Read the newest revision of every unit, one at a time, and what cannot be read.

    Yields:
        Where each lies, and the unit, or what is wrong with the file.
    """
    places = find_units(store)
    for place in places:
        if place.part < 0:
            try:
                yield place, _read_file(store, place)
            except DamagedShardError as error:
                yield place, error
    standing = set(places)
    for number in list_parts(store):
        try:
            table, units = read_part(store, number)
        except DamagedShardError as error:
            yield UnitPlace(-1, "", 0, number), error
            continue
        for each in units:
            place = place_of(each, number)
            if place in standing:
                try:
                    yield place, compacted_commit(table, each, origin=store.uri(place.path))
                except DamagedShardError as error:
                    yield place, error


def manifest_table(store: RunStore) -> pa.Table:
    """Read the rows of the newest revision of all committed units, in the order of rounds and ids.

    Columns that an older manifest lacks are null there. Torn manifests are left out and logged.
    """
    tables = [_nullable(MANIFEST_SCHEMA.empty_table())]
    parts: dict[int, tuple[pa.Table, dict[str, CompactedUnit]]] = {}
    for place in find_units(store):
        if place.part >= 0:
            if place.part not in parts:
                table, units = read_part(store, place.part)
                parts[place.part] = table, {unit.unit.unit_id: unit for unit in units}
            table, by_id = parts[place.part]
            where = by_id[place.unit_id]
            tables.append(_nullable(table.slice(where.start, where.num_rows)))
            continue
        try:
            table = parse_parquet(store.read_bytes(place.path), origin=store.uri(place.path))
        except DamagedShardError as error:
            logger.warning("manifest_is_torn unit=%s reason=%s", place.unit_id, error)
            continue
        tables.append(_nullable(table))
    return pa.concat_tables(tables, promote_options="permissive").replace_schema_metadata(None)


def _newest(places: Iterable[UnitPlace]) -> list[UnitPlace]:
    # Of equal revisions the compacted one sorts last: a file of its own is older or a late copy.
    newest: dict[str, UnitPlace] = {}
    for place in sorted(places, key=lambda p: (p.revision, p.part)):
        newest[place.unit_id] = place
    return sorted(newest.values())


def _read_file(store: RunStore, place: UnitPlace) -> UnitCommit:
    origin = store.uri(place.path)
    table = parse_parquet(store.read_bytes(place.path), origin=origin)
    return commit_of(table, origin=origin, unit_id=place.unit_id)


def _read_compacted(store: RunStore, unit_id: str) -> UnitCommit | None:
    places: list[UnitPlace] = []
    for number in list_parts(store):
        try:
            places += [each for each in _part_places(store, number) if each.unit_id == unit_id]
        except DamagedShardError as error:
            logger.warning("manifest_is_torn part=%s reason=%s", number, error)
    if not places:
        return None
    newest = max(places, key=lambda place: place.revision)
    table, units = read_part(store, newest.part)
    where = next(each for each in units if each.unit.unit_id == unit_id)
    return compacted_commit(table, where, origin=store.uri(newest.path))


@lru_cache(maxsize=1024)
def _part_places(store: RunStore, number: int) -> tuple[UnitPlace, ...]:
    # Compacted files never change, so what is in one is remembered.
    _, units = read_part(store, number, columns=())
    return tuple(place_of(each, number) for each in units)


def _nullable(table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([column.with_nullable(nullable=True) for column in table.schema]))


class RevisionReader(Generic[Found]):
    """Finds newly committed units, and newer revisions of known ones; reads each file once.

    Attributes:
        torn_paths: Manifests seen at the last refresh that could not be read and that no newer
            revision replaces; each refresh tries them again. The commit never writes such: they
            come from disks that lost power, and from copies of a run that still go on.
    """

    def __init__(self, store: RunStore) -> None:
        self.torn_paths: list[str] = []
        self._store = store
        self._known: dict[str, int] = {}
        self._parts: set[int] = set()
        self._ready: dict[str, tuple[int, Found]] = {}
        self._folders = QuietFolders()

    @property
    def torn(self) -> int:
        """Number of the torn manifests."""
        return len(self.torn_paths)

    def skip(self, unit_id: str, revision: int) -> None:
        """Take a revision, and those before it, as known: its manifest need not be read."""
        self._known[unit_id] = max(revision, self._known.get(unit_id, -1))

    def refresh(self, *, quiet_s: float = 0.0) -> list[Found]:
        """Return what was committed since the last call, the newest revision, by round and id.

        Errors of the store pass through; what was read before them is returned by the next call.

        Args:
            quiet_s: Folders of rounds in which nothing new is found are looked at less and less
                often, at least every ``quiet_s`` seconds: a run has many, and few are written to.
        """
        for _ in range(_LOOKS):
            self.torn_paths = []
            # Files first: one that disappears meanwhile is in a compacted file by then.
            places = self._list_new(quiet_s)
            self._read_parts()
            if not self._read_files(places):
                break
        ready, self._ready = self._ready, {}
        ordered = sorted((round_index, each) for each, (round_index, _) in ready.items())
        return [ready[unit_id][1] for _, unit_id in ordered]

    def _read_file(self, place: UnitPlace) -> Found:
        raise NotImplementedError

    def _read_part(self, number: int) -> list[tuple[UnitPlace, Found]]:
        raise NotImplementedError

    def _list_new(self, quiet_s: float) -> list[UnitPlace]:
        found: list[UnitPlace] = []
        for folder in self._store.list_dir(UNITS_DIR):
            if self._folders.is_due(folder, quiet_s):
                new = [place for place in list_round(self._store, folder) if self._is_new(place)]
                self._folders.note(folder, is_quiet=not new)
                found += new
        return found

    def _is_new(self, place: UnitPlace) -> bool:
        return place.revision > self._known.get(place.unit_id, -1)

    def _read_parts(self) -> None:
        for number in list_parts(self._store):
            if number in self._parts:
                continue
            try:
                found = self._read_part(number)
            except DamagedShardError as error:
                self.torn_paths.append(compacted_path(number))
                logger.warning("manifest_is_torn part=%s reason=%s", number, error)
                continue
            self._parts.add(number)
            for place, each in found:
                self._take(place, each)

    def _read_files(self, places: Iterable[UnitPlace]) -> bool:
        """Read what is new among the files; returns whether one was gone and is not known yet."""
        is_gone = False
        # Newest revision first: an older one is only read if a newer one is torn.
        for place in sorted(places, key=lambda p: (p.round, p.unit_id, -p.revision)):
            if not self._is_new(place):
                continue
            try:
                self._take(place, self._read_file(place))
            except DamagedShardError as error:
                self.torn_paths.append(place.path)
                logger.warning("manifest_is_torn unit=%s reason=%s", place.unit_id, error)
            except FileNotFoundError:
                is_gone = True
                logger.warning("manifest_is_gone unit=%s", place.unit_id)
        return is_gone

    def _take(self, place: UnitPlace, found: Found) -> None:
        self._known[place.unit_id] = place.revision
        self._ready[place.unit_id] = place.round, found


class ManifestReader(RevisionReader[UnitCommit]):
    """Reads units with all their rows."""

    def _read_file(self, place: UnitPlace) -> UnitCommit:
        return _read_file(self._store, place)

    def _read_part(self, number: int) -> list[tuple[UnitPlace, UnitCommit]]:
        table, units = read_part(self._store, number)
        origin = self._store.uri(compacted_path(number))
        return [
            (place, compacted_commit(table, each, origin=origin))
            for each in units
            if self._is_new(place := place_of(each, number))
        ]


class OutcomeReader(RevisionReader[UnitOutcome]):
    """Reads what a run needs to know of units, whatever the number of their samples."""

    def _read_file(self, place: UnitPlace) -> UnitOutcome:
        origin = self._store.uri(place.path)
        data = self._store.read_bytes(place.path)
        table = parse_parquet(data, origin=origin, columns=OUTCOME_COLUMNS)
        return outcome_of_table(table, origin=origin, unit_id=place.unit_id)

    def _read_part(self, number: int) -> list[tuple[UnitPlace, UnitOutcome]]:
        table, units = read_part(self._store, number, columns=OUTCOME_COLUMNS)
        fresh = [each for each in units if self._is_new(place_of(each, number))]
        origin = self._store.uri(compacted_path(number))
        outcomes = compacted_outcomes(table, fresh, origin=origin)
        return [(place_of(each, number), b) for each, b in zip(fresh, outcomes, strict=True)]
