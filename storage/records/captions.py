"""Captions of source images: one Parquet file for each source shard, written once.

What the caption pass left out may be added later, in further files of the shard. A file that cannot
be read is never replaced: a later file that is marked to hold all captions counts instead.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import AlreadyCommittedError, DamagedShardError
from schemas.run_layout import CAPTIONS_DIR, captions_path, parse_captions

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from storage.files.stores import RunStore

_READERS = 8
_COMPLETE = b"complete"
_COLUMNS = ("source_shard", "key", "caption", "model")
_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _COLUMNS])


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """Caption of one source image.

    Attributes:
        key: The image's key within its shard.
        caption: The text.
        model: What wrote it.
    """

    key: str
    caption: str
    model: str


def write_captions(store: RunStore, source_shard: str, rows: Sequence[CaptionRow]) -> bool:
    """Write the captions of a source shard, if there are none that can be read.

    Returns:
        True if these were written; False if there were captions already: they stay.

    Raises:
        ValueError: If the shard's name holds a slash.
    """
    try:
        store.put_if_absent(captions_path(source_shard), _to_parquet(source_shard, rows))
    except AlreadyCommittedError:
        if source_shard not in damaged_shards(store):
            return False
        add_captions(store, source_shard, rows, is_complete=True)
    return True


def add_captions(
    store: RunStore,
    source_shard: str,
    rows: Sequence[CaptionRow],
    *,
    is_complete: bool = False,
) -> None:
    """Write captions of images that a shard's captions lack; those that are there stay.

    Args:
        is_complete: Whether they are all of the shard's, so that files before that cannot be read
            are no longer needed.

    Raises:
        ValueError: If the shard's name holds a slash.
    """
    data = _to_parquet(source_shard, rows, is_complete=is_complete)
    addition = 1 + max((n for shard, n in _files(store) if shard == source_shard), default=0)
    while True:
        try:
            store.put_if_absent(captions_path(source_shard, addition), data)
        except AlreadyCommittedError:
            addition += 1
        else:
            return


def captioned_shards(store: RunStore) -> set[str]:
    """Names of the source shards that have captions; one listing, nothing is read."""
    return {shard for shard, addition in _files(store) if not addition}


def damaged_shards(store: RunStore) -> set[str]:
    """Names of the source shards whose captions cannot be read; every file is read."""
    by_shard = _by_shard(store)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="captions") as pool:
        errors = pool.map(lambda shard: _error_of(store, shard, by_shard[shard]), by_shard)
        return {shard for shard, error in zip(by_shard, errors, strict=True) if error}


def read_captions(
    store: RunStore, *, leave_out: Collection[str] = ()
) -> dict[tuple[str, str], CaptionRow]:
    """Read all captions, by source shard and key.

    Args:
        leave_out: Names of source shards that are not read.

    Raises:
        DamagedShardError: If captions of a shard cannot be read.
    """
    return {
        (shard, key): row
        for shard, additions in _by_shard(store).items()
        if shard not in leave_out
        for key, row in _read_shard(store, shard, additions).items()
    }


def read_shard_captions(store: RunStore, source_shard: str) -> dict[str, CaptionRow]:
    """Read the captions of one source shard, by key; none if it has none.

    Raises:
        DamagedShardError: If they cannot be read.
    """
    return _read_shard(store, source_shard, _by_shard(store).get(source_shard, []))


def _by_shard(store: RunStore) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for shard, addition in _files(store):
        found.setdefault(shard, []).append(addition)
    return found


def _read_shard(store: RunStore, shard: str, additions: Sequence[int]) -> dict[str, CaptionRow]:
    found: dict[str, CaptionRow] = {}
    damage: DamagedShardError | None = None
    for addition in additions:
        try:
            rows, is_complete = _read(store, captions_path(shard, addition))
        except DamagedShardError as error:
            damage = error
            continue
        damage = None if is_complete else damage
        for row in rows:
            found.setdefault(row.key, row)
    if damage is not None:
        raise damage
    return found


def _error_of(store: RunStore, shard: str, additions: Sequence[int]) -> DamagedShardError | None:
    try:
        _read_shard(store, shard, additions)
    except DamagedShardError as error:
        return error
    return None


def _files(store: RunStore) -> list[tuple[str, int]]:
    parsed = (parse_captions(name) for name in store.list_dir(CAPTIONS_DIR))
    return sorted(file for file in parsed if file is not None)


def _to_parquet(
    source_shard: str, rows: Sequence[CaptionRow], *, is_complete: bool = True
) -> bytes:
    _check_name(source_shard)
    columns = [(source_shard, row.key, row.caption, row.model) for row in rows]
    records = [dict(zip(_COLUMNS, values, strict=True)) for values in columns]
    schema = _SCHEMA.with_metadata({_COMPLETE: b"1"}) if is_complete else _SCHEMA
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _read(store: RunStore, path: str) -> tuple[list[CaptionRow], bool]:
    """Rows of a file, and whether it holds all captions of its shard.

    Raises:
        DamagedShardError: If it is no captions file.
    """
    data = store.read_bytes(path)
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read(
            columns=["key", "caption", "model"], use_threads=False
        )
        _expect_texts(table)
        rows = [CaptionRow(**row) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise DamagedShardError(
            f"{store.uri(path)}: not a captions file ({error}); the command that the run was "
            "started with makes the captions again"
        ) from error
    return rows, _COMPLETE in (table.schema.metadata or {})


def _expect_texts(table: pa.Table) -> None:
    for column in table.schema:
        if column.type != pa.string() or table.column(column.name).null_count:
            raise TypeError(f"column {column.name}: wanted texts, found {column.type}")


def _check_name(source_shard: str) -> None:
    if not source_shard or "/" in source_shard or source_shard.startswith("."):
        raise ValueError(
            f"source shard {source_shard!r}: wanted a name without slashes and leading dot"
        )
