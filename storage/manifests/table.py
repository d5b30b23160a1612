"""Unit manifests: commit a unit's rows as one Parquet file, find and read committed units.

A unit may have several revisions (``manifest/units/r=…/<unit>.parquet``, ``….rev-0001.parquet``,
…): the greatest counts. Many units may also lie together in ``manifest/compacted/``; of the same
revision in both places, the compacted one counts.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Generic, TypeVar

import pyarrow as pa

from schemas.errors import AlreadyCommittedError, DamagedShardError
from schemas.run_layout import UNITS_DIR, compacted_path, unit_manifest_path
from storage.manifests.file import (
    MANIFEST_SCHEMA,
    UnitTable,
    commit_of,
    outcome_of_table,
    unit_to_parquet,
)
from storage.manifests.places import (
    QuietFolders,
    UnitPlace,
    find_units,
    list_all,
    list_parts,
    list_round,
    part_places,
    read_manifest_file,
)
from storage.manifests.unit_outcome import (
    OUTCOME_COLUMNS,
    UnitCommit,
    UnitOutcome,
    check_commit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from schemas.manifest import ManifestRow
    from schemas.unit import Unit
    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

_LOOKS = 3

Found = TypeVar("Found")


def commit_unit(store: RunStore, commit: UnitCommit) -> bool:
    """Make a unit visible, if nobody else has: the tar that its rows name must be written before.

    A manifest that is there but cannot be read (its disk lost power, a copy of the run was cut
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


def collect_labels(store: RunStore, commit: UnitCommit, paths: Sequence[str]) -> bool:
    """Remove the tars of a unit whose labels were superseded.

    A revision is committed first in which the unit's good rows are ``collected`` and name no tar,
    so no visible row ever lacks its bytes. A process that dies in between leaves tars that no
    manifest names.

    Returns:
        False if another revision came first: nothing was removed.
    """
    unit = replace(commit.unit, revision=commit.unit.revision + 1)
    marked = UnitCommit(
        unit=unit, rows=[_collected(row) for row in commit.rows], summary=dict(commit.summary)
    )
    if not commit_unit(store, marked):
        return False
    for path in paths:
        store.remove_file(path)
    return True


def read_unit(
    store: RunStore, round_index: int, unit_id: str, *, has_own_file: bool = False
) -> UnitCommit:
    """Read the newest revision of a committed unit that can be read.

    Args:
        has_own_file: Whether the unit is known to be kept in files of its own, as one whose images
            are to be labelled again: then compacted files are searched only if it has none.

    Raises:
        FileNotFoundError: If it is not committed.
        DamagedShardError: If none of its manifests can be read.
    """
    newest: UnitCommit | None = None
    torn: DamagedShardError | None = None
    # A second search finds what was compacted, and its file removed, since the first.
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


def iterate_units(store: RunStore) -> Iterator[tuple[UnitPlace, UnitCommit | DamagedShardError]]:
    """Read the newest revision of every unit, one at a time, and what cannot be read.

    Yields:
        Where each lies, and the unit, or what is wrong with the file.
    """
    places, torn = list_all(store)
    yield from torn
    for place, found in _read_each(store, places):
        yield place, found if isinstance(found, DamagedShardError) else _commit_or_error(found)


def manifest_table(store: RunStore) -> pa.Table:
    """Read the rows of the newest revision of all committed units, in the order of rounds and ids.

    Columns that an older manifest lacks are null there. Torn manifests are left out and logged.
    """
    tables: dict[UnitPlace, pa.Table] = {}
    for place, found in _read_each(store, find_units(store)):
        if isinstance(found, DamagedShardError):
            logger.warning("manifest_is_torn path=%s reason=%s", place.path, found)
        else:
            tables[place] = found.rows
    in_order = [MANIFEST_SCHEMA.empty_table(), *(tables[place] for place in sorted(tables))]
    return pa.concat_tables(map(_nullable, in_order), promote_options="permissive")


def _read_each(
    store: RunStore, places: Sequence[UnitPlace]
) -> Iterator[tuple[UnitPlace, UnitTable | DamagedShardError]]:
    """Read units from their files, each file once; one file is held at a time."""
    for path, group in groupby(sorted(places, key=lambda p: (p.part, p)), lambda p: p.path):
        try:
            found = {each.unit.unit_id: each for each in read_manifest_file(store, path)}
        except DamagedShardError as error:
            first = next(group)
            yield first if first.part < 0 else UnitPlace(-1, "", 0, first.part), error
            continue
        for place in group:
            yield place, found[place.unit_id]


def _commit_or_error(found: UnitTable) -> UnitCommit | DamagedShardError:
    try:
        return commit_of(found)
    except DamagedShardError as error:
        return error


def _read_file(store: RunStore, place: UnitPlace) -> UnitCommit:
    units = read_manifest_file(store, place.path)
    return next(commit_of(each) for each in units if each.unit.unit_id == place.unit_id)


def _read_compacted(store: RunStore, unit_id: str) -> UnitCommit | None:
    places: list[UnitPlace] = []
    for number in list_parts(store):
        try:
            places += [each for each in part_places(store, number) if each.unit_id == unit_id]
        except DamagedShardError as error:
            logger.warning("manifest_is_torn path=%s reason=%s", compacted_path(number), error)
    return _read_file(store, max(places, key=lambda p: p.revision)) if places else None


def _nullable(table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([column.with_nullable(nullable=True) for column in table.schema]))


def _collected(row: ManifestRow) -> ManifestRow:
    if row.status != "ok":
        return row
    return replace(
        row,
        status="collected",
        error_class="superseded",
        error_msg="newer labels of the same image replaced these, and jobs/gc.py removed them",
        tar_uri="",
        tar_offset=-1,
        tar_size=-1,
        tar_sha256="",
    )


class RevisionReader(Generic[Found]):
    """Finds newly committed units, and newer revisions of known ones; reads each file once.

    Args:
        read: Makes what is found of a unit.
        columns: What ``read`` needs; None: all.

    Attributes:
        torn_paths: Manifests seen at the last refresh that could not be read and that no newer
            revision replaces; each refresh tries them again. The commit never writes such: they
            come from disks that lost power, and from copies of a run that still go on.
    """

    def __init__(
        self,
        store: RunStore,
        read: Callable[[UnitTable], Found],
        columns: Sequence[str] | None = None,
    ) -> None:
        self.torn_paths: list[str] = []
        self._store = store
        self._read_unit = read
        self._columns = columns
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
            quiet_s: Folders of rounds in which nothing new is found are listed less and less
                often, at least every ``quiet_s`` seconds: a run has many, and few are written to.
        """
        for _ in range(_LOOKS):
            self.torn_paths = []
            # Files first: one that disappears meanwhile is in a compacted file by then.
            places = self._list_new(quiet_s)
            for number in list_parts(self._store):
                if number not in self._parts and self._read(compacted_path(number)):
                    self._parts.add(number)
            if not self._read_files(places):
                break
        ready, self._ready = self._ready, {}
        ordered = sorted((round_index, each) for each, (round_index, _) in ready.items())
        return [ready[unit_id][1] for _, unit_id in ordered]

    def _list_new(self, quiet_s: float) -> list[UnitPlace]:
        found: list[UnitPlace] = []
        for folder in self._store.list_dir(UNITS_DIR):
            if self._folders.is_due(folder, quiet_s):
                new = [place for place in list_round(self._store, folder) if self._is_new(place)]
                self._folders.note(folder, is_quiet=not new)
                found += new
        return found

    def _is_new(self, each: UnitPlace | Unit) -> bool:
        return each.revision > self._known.get(each.unit_id, -1)

    def _read_files(self, places: Iterable[UnitPlace]) -> bool:
        """Read what is new among the files; returns whether one was gone and is not known yet."""
        is_gone = False
        # Newest revision first: an older one is only read if a newer one is torn.
        for place in sorted(places, key=lambda p: (p.round, p.unit_id, -p.revision)):
            try:
                if self._is_new(place):
                    self._read(place.path)
            except FileNotFoundError:
                is_gone = True
                logger.warning("manifest_is_gone path=%s", place.path)
        return is_gone

    def _read(self, path: str) -> bool:
        """Take what is new in a file, all of it or, if it is torn, nothing; whether it is whole."""
        try:
            units = read_manifest_file(self._store, path, columns=self._columns)
            new = [each for each in units if self._is_new(each.unit)]
            found = [(each.unit, self._read_unit(each)) for each in new]
        except DamagedShardError as error:
            self.torn_paths.append(path)
            logger.warning("manifest_is_torn path=%s reason=%s", path, error)
            return False
        for unit, each in found:
            self._known[unit.unit_id] = unit.revision
            self._ready[unit.unit_id] = unit.round, each
        return True


class ManifestReader(RevisionReader[UnitCommit]):
    """Reads units with all their rows."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store, commit_of)


class OutcomeReader(RevisionReader[UnitOutcome]):
    """Reads what a run needs to know of units, whatever the number of their samples."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store, outcome_of_table, OUTCOME_COLUMNS)
