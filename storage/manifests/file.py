"""One manifest file as bytes: a unit's rows, or those of many units one after the other."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DamagedShardError
from schemas.manifest import (
    COLUMN_TYPES,
    METADATA_SCHEMA_VERSION,
    METADATA_SUMMARY,
    METADATA_UNIT,
    METADATA_UNITS,
    SCHEMA_VERSION,
    ManifestRow,
)
from schemas.unit import Unit
from storage.manifests.unit_outcome import (
    OUTCOME_COLUMNS,
    UnitCommit,
    check_commit,
    expect_rows_fit,
    outcome_of_columns,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from storage.manifests.unit_outcome import UnitOutcome

_ARROW_TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}
_NOTHING = {"int": 0, "float": 0.0, "str": ""}
_NOT_OURS = (KeyError, TypeError, ValueError, AttributeError, RecursionError)

MANIFEST_SCHEMA = pa.schema(
    [pa.field(name, _ARROW_TYPES[kind], nullable=False) for name, kind in COLUMN_TYPES.items()]
)
"""Arrow form of the manifest's columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitTable:
    """A unit as it lies in a manifest file, in a file of its own or among others.

    Attributes:
        unit: The unit.
        summary: As :attr:`UnitCommit.summary`.
        table: The whole file's.
        start: The unit's first row there.
        num_rows: Its rows.
        origin: Name of the file for messages.
    """

    unit: Unit
    summary: dict[str, Any]
    table: pa.Table
    start: int
    num_rows: int
    origin: str

    @property
    def rows(self) -> pa.Table:
        """The unit's own rows, with the columns that were read."""
        return self.table.slice(self.start, self.num_rows).replace_schema_metadata(None)


def unit_to_parquet(commit: UnitCommit) -> bytes:
    """Serialise a unit; its rows get the unit's revision."""
    metadata = {
        METADATA_SCHEMA_VERSION: str(SCHEMA_VERSION).encode(),
        METADATA_UNIT: commit.unit.to_json().encode(),
        METADATA_SUMMARY: json.dumps(commit.summary, sort_keys=True).encode(),
    }
    rows = [asdict(replace(row, revision=commit.unit.revision)) for row in commit.rows]
    schema = MANIFEST_SCHEMA.with_metadata(metadata)
    return _write(pa.Table.from_pylist(rows, schema=schema))


def units_to_parquet(units: Sequence[UnitTable]) -> bytes:
    """Put units, read with all columns, into one compacted file.

    Columns that an older table lacks get their default; columns that only a newer version of the
    code knows are kept.
    """
    entries = [
        {"unit": json.loads(each.unit.to_json()), "summary": each.summary, "rows": each.num_rows}
        for each in units
    ]
    metadata = {
        METADATA_SCHEMA_VERSION: str(SCHEMA_VERSION).encode(),
        METADATA_UNITS: json.dumps(entries, sort_keys=True).encode(),
    }
    tables = [_completed(each.rows) for each in units]
    whole = pa.concat_tables(tables, promote_options="permissive")
    return _write(whole.replace_schema_metadata(metadata))


def parse_manifest(
    data: bytes,
    *,
    origin: str,
    named: tuple[str, int] | None = None,
    columns: Sequence[str] | None = None,
) -> list[UnitTable]:
    """Read the units of a manifest file, one or many, with all columns or some.

    Args:
        named: The only unit that it may hold, and its revision; None: any, and as many.
        columns: Columns that are needed; None: all.

    Raises:
        DamagedShardError: If it is not a whole Parquet file, no manifest, or another unit's.
    """
    try:
        # One thread: a short command must not end while a pool of threads is still starting.
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        table = file.read(columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedShardError(
            f"{origin}: not a whole Parquet file ({len(data)} bytes, {error}); the command that "
            "the run was started with makes the unit again, and so does jobs/retry.py"
        ) from error
    try:
        _expect_types(table)
        units = list(_units_of(table, origin))
        found = [(each.unit.unit_id, each.unit.revision) for each in units]
        _expect_named(found, named)
    except _NOT_OURS as error:
        raise DamagedShardError(_not_ours(origin, error)) from error
    return units


def commit_of(found: UnitTable) -> UnitCommit:
    """Read a unit with all its rows.

    Raises:
        DamagedShardError: If its rows are not those of the unit.
    """
    known = [name for name in found.table.column_names if name in COLUMN_TYPES]
    try:
        rows = [ManifestRow(**row) for row in found.rows.select(known).to_pylist()]
        commit = UnitCommit(unit=found.unit, rows=rows, summary=found.summary)
        check_commit(commit)
    except _NOT_OURS as error:
        raise DamagedShardError(_not_ours(found.origin, error)) from error
    return commit


def outcome_of_table(found: UnitTable) -> UnitOutcome:
    """As :func:`commit_of`, but :data:`OUTCOME_COLUMNS` are enough.

    Raises:
        DamagedShardError: If its rows are not those of the unit.
    """
    try:
        columns = {
            name: found.table.column(name).slice(found.start, found.num_rows).to_pylist()
            for name in OUTCOME_COLUMNS
        }
        expect_rows_fit(found.unit, found.summary, columns)
        return outcome_of_columns(found.unit, found.summary, columns)
    except _NOT_OURS as error:
        raise DamagedShardError(_not_ours(found.origin, error)) from error


def _units_of(table: pa.Table, origin: str) -> Iterator[UnitTable]:
    metadata, start = table.schema.metadata or {}, 0
    if METADATA_UNITS in metadata:
        entries = json.loads(metadata[METADATA_UNITS])
    else:
        fields, summary = metadata[METADATA_UNIT], metadata[METADATA_SUMMARY]
        entries = [
            {"unit": json.loads(fields), "summary": json.loads(summary), "rows": table.num_rows}
        ]
    for entry in entries:
        unit, summary, num_rows = *_checked_entry(entry), int(entry["rows"])
        yield UnitTable(
            unit=unit, summary=summary, table=table, start=start, num_rows=num_rows, origin=origin
        )
        start += num_rows
    if start != table.num_rows:
        raise ValueError(f"{start} rows announced, {table.num_rows} there")


def _checked_entry(entry: dict[str, Any]) -> tuple[Unit, dict[str, Any]]:
    fields, summary = entry["unit"], entry["summary"]
    if not isinstance(fields["keys"], list) or not isinstance(summary, dict):
        raise TypeError("wanted a unit with a list of keys and a summary with fields")
    return Unit.from_values(fields), summary


def _expect_named(found: list[tuple[str, int]], named: tuple[str, int] | None) -> None:
    if named is not None and found != [named]:
        raise ValueError(f"units and revisions {found} under the name of {named}")


def _expect_types(table: pa.Table) -> None:
    for name in COLUMN_TYPES.keys() & set(table.column_names):
        column, wanted = table.column(name), _ARROW_TYPES[COLUMN_TYPES[name]]
        if column.null_count or (column.type != wanted and table.num_rows):
            raise TypeError(
                f"column {name}: wanted {wanted} without nulls, found {column.type} with "
                f"{column.null_count}"
            )


def _completed(table: pa.Table) -> pa.Table:
    present = frozenset(table.column_names)
    for name, kind in COLUMN_TYPES.items():
        if name not in present:
            default = ManifestRow.__dataclass_fields__[name].default
            value = default if isinstance(default, str | int | float) else _NOTHING[kind]
            filled = pa.array([value] * table.num_rows, type=_ARROW_TYPES[kind])
            table = table.append_column(name, filled)
    return table


def _not_ours(origin: str, error: Exception) -> str:
    return (
        f"{origin}: wanted the columns and metadata of schema version {SCHEMA_VERSION} or older, "
        f"found {error!r:.300}; read it with the version of the code that wrote it"
    )


def _write(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()
