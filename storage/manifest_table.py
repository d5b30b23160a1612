"""Unit manifests: commit a unit's rows as one Parquet file, find and read committed units."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import AlreadyCommittedError, DamagedShardError
from schemas.manifest import (
    COLUMN_TYPES,
    METADATA_SCHEMA_VERSION,
    METADATA_SUMMARY,
    METADATA_UNIT,
    SCHEMA_VERSION,
    ManifestRow,
)
from schemas.run_layout import UNITS_DIR, unit_manifest_path
from schemas.unit import Unit

if TYPE_CHECKING:
    from storage.filesystem import RunStore

logger = logging.getLogger(__name__)

_ARROW_TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}
_SUFFIX = ".parquet"

MANIFEST_SCHEMA = pa.schema(
    [pa.field(name, _ARROW_TYPES[kind], nullable=False) for name, kind in COLUMN_TYPES.items()]
)
"""Arrow form of the manifest's columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitCommit:
    """A finished unit.

    Attributes:
        unit: The unit as planned.
        rows: One row per sample, failed and filtered ones too.
        summary: JSON values about the whole: ``attempt`` (required: who made it), counts by
            status, seconds, version, ….
    """

    unit: Unit
    rows: list[ManifestRow]
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def attempt(self) -> str:
        """The attempt that made it."""
        return str(self.summary["attempt"])


def commit_unit(store: RunStore, commit: UnitCommit) -> bool:
    """Make a unit visible, if nobody else has: the tar that its rows name must be written before.

    Returns:
        True if this attempt's manifest is visible, now or since an earlier call; False if
        another attempt's is, and this one's tar is never read.

    Raises:
        ValueError: If the rows do not belong to the unit and the attempt, or a key comes twice.
        DamagedShardError: If a manifest is there that cannot be read.
    """
    _check_commit(commit)
    unit = commit.unit
    path = unit_manifest_path(round_index=unit.round, unit_id=unit.unit_id)
    try:
        store.put_if_absent(path, _to_parquet(commit))
    except AlreadyCommittedError:
        # Ours, too, when the store answered a repeated request whose first try had succeeded.
        visible = read_unit(store, unit.round, unit.unit_id)
        return visible.attempt == commit.attempt
    return True


def read_unit(store: RunStore, round_index: int, unit_id: str) -> UnitCommit:
    """Read a committed unit.

    Raises:
        FileNotFoundError: If it is not committed.
        DamagedShardError: If its manifest cannot be read.
    """
    path = unit_manifest_path(round_index=round_index, unit_id=unit_id)
    table = _parse(store.read_bytes(path), origin=store.uri(path))
    return _to_commit(table, origin=store.uri(path))


def list_committed(store: RunStore) -> dict[str, int]:
    """Ids of all committed units and the round of each, from listings alone."""
    found: dict[str, int] = {}
    for folder in store.list_dir(UNITS_DIR):
        if not folder.startswith("r=") or not folder[2:].isdigit():
            continue
        for name in store.list_dir(f"{UNITS_DIR}/{folder}"):
            if name.endswith(_SUFFIX):
                found[name.removesuffix(_SUFFIX)] = int(folder[2:])
    return found


class ManifestReader:
    """Finds newly committed units; reads each manifest once.

    Attributes:
        torn: Manifests seen at the last refresh that could not be read; each refresh tries them
            again. The commit never writes such: they come from copies of a run that still go on.
    """

    def __init__(self, store: RunStore) -> None:
        self.torn = 0
        self._store = store
        self._known: set[str] = set()
        self._ready: list[UnitCommit] = []

    def refresh(self) -> list[UnitCommit]:
        """Return the units committed since the last call, by round and id.

        Errors of the store pass through; what was read before them is returned by the next call.
        """
        torn = 0
        committed = list_committed(self._store).items()
        fresh = sorted((number, unit) for unit, number in committed if unit not in self._known)
        for round_index, unit_id in fresh:
            try:
                self._ready.append(read_unit(self._store, round_index, unit_id))
            except DamagedShardError as error:
                torn += 1
                logger.warning("manifest_is_torn unit=%s reason=%s", unit_id, error)
            except FileNotFoundError:
                logger.warning("manifest_is_gone unit=%s", unit_id)
            else:
                self._known.add(unit_id)
        self.torn = torn
        ready, self._ready = self._ready, []
        return ready


def manifest_table(store: RunStore) -> pa.Table:
    """Read all rows of all committed units, in the order of rounds and ids.

    Columns that an older manifest lacks are null there. Torn manifests are left out and logged.
    """
    tables = [_nullable(MANIFEST_SCHEMA.empty_table())]
    for unit_id, round_index in sorted(list_committed(store).items(), key=lambda u: (u[1], u[0])):
        path = unit_manifest_path(round_index=round_index, unit_id=unit_id)
        try:
            table = _parse(store.read_bytes(path), origin=store.uri(path))
        except DamagedShardError as error:
            logger.warning("manifest_is_torn unit=%s reason=%s", unit_id, error)
            continue
        tables.append(_nullable(table))
    return pa.concat_tables(tables, promote_options="permissive")


def _nullable(table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([column.with_nullable(nullable=True) for column in table.schema]))


def _check_commit(commit: UnitCommit) -> None:
    unit_id = commit.unit.unit_id
    if not commit.summary.get("attempt"):
        raise ValueError(f"unit {unit_id}: summary lacks 'attempt'; name who made it")
    for row in commit.rows:
        if row.unit_id != unit_id or row.attempt != commit.attempt:
            raise ValueError(
                f"row {row.key!r}: wanted unit {unit_id} attempt {commit.attempt}, found "
                f"{row.unit_id} attempt {row.attempt}"
            )
    keys = [row.key for row in commit.rows]
    if len(set(keys)) != len(keys):
        raise ValueError(f"unit {unit_id}: a key comes twice among its rows; keys are unique")


def _to_parquet(commit: UnitCommit) -> bytes:
    metadata = {
        METADATA_SCHEMA_VERSION: str(SCHEMA_VERSION).encode(),
        METADATA_UNIT: commit.unit.to_json().encode(),
        METADATA_SUMMARY: json.dumps(commit.summary, sort_keys=True).encode(),
    }
    rows = [asdict(row) for row in commit.rows]
    schema = MANIFEST_SCHEMA.with_metadata(metadata)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _parse(data: bytes, *, origin: str) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise DamagedShardError(
            f"{origin}: not a whole Parquet file ({len(data)} bytes, {error}); if no copy of the "
            "run is going on, delete it and the unit is made again"
        ) from error


def _to_commit(table: pa.Table, *, origin: str) -> UnitCommit:
    metadata = table.schema.metadata or {}
    known = [name for name in table.column_names if name in COLUMN_TYPES]
    try:
        unit = Unit.from_json(metadata[METADATA_UNIT].decode())
        summary = json.loads(metadata[METADATA_SUMMARY])
        rows = [ManifestRow(**row) for row in table.select(known).to_pylist()]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedShardError(
            f"{origin}: wanted the columns and metadata of schema version {SCHEMA_VERSION} or "
            f"older, found {error!r}; read it with the version of the code that wrote it"
        ) from error
    return UnitCommit(unit=unit, rows=rows, summary=summary)
