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
    from collections.abc import Iterable, Iterator, Sequence

    from storage.manifests.unit_outcome import UnitOutcome

_ARROW_TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}
_NOTHING = {"int": 0, "float": 0.0, "str": ""}

MANIFEST_SCHEMA = pa.schema(
    [pa.field(name, _ARROW_TYPES[kind], nullable=False) for name, kind in COLUMN_TYPES.items()]
)
"""Arrow form of the manifest's columns."""


@dataclass(frozen=True, slots=True)
class CompactedUnit:
    """Where a unit's rows lie in a compacted file.

    Attributes:
        unit: The unit.
        summary: As :attr:`UnitCommit.summary`.
        start: Its first row in the file.
        num_rows: Its rows.
    """

    unit: Unit
    summary: dict[str, Any]
    start: int
    num_rows: int


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


def units_to_parquet(tables: Sequence[pa.Table]) -> bytes:
    """Put tables of :func:`parse_parquet`, each of one unit, into one compacted file.

    Columns that an older table lacks get their default; columns that only a newer version of the
    code knows are kept.

    Raises:
        DamagedShardError: If one of them is not a unit's manifest.
    """
    entries = []
    for table in tables:
        outcome_of_table(table, origin="a manifest to compact")
        metadata = table.schema.metadata
        entries.append(
            {
                "unit": json.loads(metadata[METADATA_UNIT]),
                "summary": json.loads(metadata[METADATA_SUMMARY]),
                "rows": table.num_rows,
            }
        )
    whole_metadata = {
        METADATA_SCHEMA_VERSION: str(SCHEMA_VERSION).encode(),
        METADATA_UNITS: json.dumps(entries, sort_keys=True).encode(),
    }
    whole = pa.concat_tables([_completed(table) for table in tables], promote_options="permissive")
    return _write(whole.replace_schema_metadata(whole_metadata))


def parse_parquet(data: bytes, *, origin: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a manifest file, all its columns or some.

    Raises:
        DamagedShardError: If it is not a whole Parquet file.
    """
    try:
        # One thread: a short command must not end while a pool of threads is still starting.
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        return file.read(columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedShardError(
            f"{origin}: not a whole Parquet file ({len(data)} bytes, {error}); the command that "
            "the run was started with makes the unit again, and so does jobs/retry.py"
        ) from error


def commit_of(table: pa.Table, *, origin: str, unit_id: str = "") -> UnitCommit:
    """Read the unit out of the table of its manifest.

    Args:
        table: What :func:`parse_parquet` returned.
        origin: Name for messages.
        unit_id: The unit that it should be; empty: whichever it is.

    Raises:
        DamagedShardError: If it is another one, or no unit.
    """
    try:
        unit, summary = _unit_of(table, unit_id)
        commit = UnitCommit(unit=unit, rows=_rows(table), summary=summary)
        check_commit(commit)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedShardError(_not_ours(origin, error)) from error
    return commit


def outcome_of_table(table: pa.Table, *, origin: str, unit_id: str = "") -> UnitOutcome:
    """As :func:`commit_of`, from a table that needs to have the columns of an outcome alone.

    Types are checked of all columns that are there.

    Raises:
        DamagedShardError: If it is another unit, or no unit.
    """
    try:
        unit, summary = _unit_of(table, unit_id)
        columns = _outcome_columns(table)
        expect_rows_fit(unit, summary, columns)
        return outcome_of_columns(unit, summary, columns)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedShardError(_not_ours(origin, error)) from error


def compacted_outcomes(
    table: pa.Table, places: Iterable[CompactedUnit], *, origin: str
) -> list[UnitOutcome]:
    """As :func:`compacted_commit` for many units, from the columns of an outcome alone.

    Raises:
        DamagedShardError: If the rows of one are not those of a unit.
    """
    found = []
    try:
        columns = _outcome_columns(table)
        for place in places:
            end = place.start + place.num_rows
            own = {name: values[place.start : end] for name, values in columns.items()}
            expect_rows_fit(place.unit, place.summary, own)
            found.append(outcome_of_columns(place.unit, place.summary, own))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedShardError(_not_ours(origin, error)) from error
    return found


def compacted_units(table: pa.Table, *, origin: str) -> list[CompactedUnit]:
    """List the units in the table of a compacted file.

    Raises:
        DamagedShardError: If it is no such file.
    """
    try:
        return list(_compacted_units(table.schema.metadata or {}, table.num_rows))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedShardError(_not_ours(origin, error)) from error


def compacted_commit(table: pa.Table, place: CompactedUnit, *, origin: str) -> UnitCommit:
    """Read one unit out of the table of a compacted file.

    Raises:
        DamagedShardError: If its rows are not those of a unit.
    """
    try:
        rows = _rows(table.slice(place.start, place.num_rows))
        commit = UnitCommit(unit=place.unit, rows=rows, summary=place.summary)
        check_commit(commit)
    except (TypeError, ValueError) as error:
        raise DamagedShardError(_not_ours(origin, error)) from error
    return commit


def _compacted_units(metadata: dict[bytes, bytes], num_rows: int) -> Iterator[CompactedUnit]:
    start = 0
    for entry in json.loads(metadata[METADATA_UNITS]):
        unit, summary = _checked_entry(entry)
        yield CompactedUnit(unit, summary, start, int(entry["rows"]))
        start += int(entry["rows"])
    if start != num_rows:
        raise ValueError(f"{start} rows announced, {num_rows} there")


def _unit_of(table: pa.Table, unit_id: str) -> tuple[Unit, dict[str, Any]]:
    metadata = table.schema.metadata or {}
    entry = {
        "unit": json.loads(metadata[METADATA_UNIT]),
        "summary": json.loads(metadata[METADATA_SUMMARY]),
    }
    return _checked_entry(entry, unit_id)


def _checked_entry(entry: dict[str, Any], unit_id: str = "") -> tuple[Unit, dict[str, Any]]:
    fields, summary = entry["unit"], entry["summary"]
    if not isinstance(fields["keys"], list) or not isinstance(summary, dict):
        raise TypeError("wanted a unit with a list of keys and a summary with fields")
    unit = Unit.from_values(fields)
    if unit_id and unit.unit_id != unit_id:
        raise ValueError(f"unit {unit.unit_id} under the name of {unit_id}")
    return unit, summary


def _rows(table: pa.Table) -> list[ManifestRow]:
    known = [name for name in table.column_names if name in COLUMN_TYPES]
    _expect_types(table, known)
    return [ManifestRow(**row) for row in table.select(known).to_pylist()]


def _outcome_columns(table: pa.Table) -> dict[str, list[Any]]:
    _expect_types(table, [*OUTCOME_COLUMNS, *(COLUMN_TYPES.keys() & set(table.column_names))])
    return {name: table.column(name).to_pylist() for name in OUTCOME_COLUMNS}


def _expect_types(table: pa.Table, names: Sequence[str]) -> None:
    for name in names:
        column = table.column(name)
        wanted = _ARROW_TYPES[COLUMN_TYPES[name]]
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
    return table.replace_schema_metadata(None)


def _not_ours(origin: str, error: Exception) -> str:
    return (
        f"{origin}: wanted the columns and metadata of schema version {SCHEMA_VERSION} or older, "
        f"found {error!r:.300}; read it with the version of the code that wrote it"
    )


def _write(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()
