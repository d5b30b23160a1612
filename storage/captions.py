"""Captions of source images: one Parquet file for each source shard, written once.

What the caption pass left out may be added later, in further files of the shard.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import AlreadyCommittedError, DamagedShardError
from schemas.run_layout import CAPTIONS_DIR, captions_path, parse_captions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from storage.filesystem import RunStore

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


def write_captions(store: RunStore, source_shard: str, rows: Iterable[CaptionRow]) -> bool:
    """Write the captions of a source shard, if there are none.

    Returns:
        True if these were written; False if there were captions already, which stand.

    Raises:
        ValueError: If the shard's name holds a slash.
    """
    try:
        store.put_if_absent(captions_path(source_shard), _to_parquet(source_shard, rows))
    except AlreadyCommittedError:
        return False
    return True


def add_captions(store: RunStore, source_shard: str, rows: Iterable[CaptionRow]) -> None:
    """Write captions of images that a shard's captions lack; those that are there stand.

    Raises:
        ValueError: If the shard's name holds a slash.
    """
    data = _to_parquet(source_shard, rows)
    addition = 1 + max((n for shard, n in _files(store) if shard == source_shard), default=0)
    while True:
        try:
            store.put_if_absent(captions_path(source_shard, addition), data)
        except AlreadyCommittedError:
            addition += 1
        else:
            return


def captioned_shards(store: RunStore) -> set[str]:
    """Names of the source shards that have captions, from a listing alone."""
    return {shard for shard, addition in _files(store) if not addition}


def read_captions(store: RunStore) -> dict[tuple[str, str], CaptionRow]:
    """Read all captions, by source shard and key.

    Raises:
        DamagedShardError: If a file cannot be read.
    """
    found: dict[tuple[str, str], CaptionRow] = {}
    for shard, addition in _files(store):
        for row in _read(store, captions_path(shard, addition)):
            found.setdefault((shard, row.key), row)
    return found


def read_shard_captions(store: RunStore, source_shard: str) -> dict[str, CaptionRow]:
    """Read the captions of one source shard, by key; none if it has none.

    Raises:
        DamagedShardError: If a file cannot be read.
    """
    found: dict[str, CaptionRow] = {}
    for shard, addition in _files(store):
        if shard == source_shard:
            for row in _read(store, captions_path(shard, addition)):
                found.setdefault(row.key, row)
    return found


def _files(store: RunStore) -> list[tuple[str, int]]:
    parsed = (parse_captions(name) for name in store.list_dir(CAPTIONS_DIR))
    return sorted(file for file in parsed if file is not None)


def _to_parquet(source_shard: str, rows: Iterable[CaptionRow]) -> bytes:
    _check_name(source_shard)
    columns = [(source_shard, row.key, row.caption, row.model) for row in rows]
    records = [dict(zip(_COLUMNS, values, strict=True)) for values in columns]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def _read(store: RunStore, path: str) -> list[CaptionRow]:
    data = store.read_bytes(path)
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read(
            columns=["key", "caption", "model"], use_threads=False
        )
        _expect_texts(table)
        return [CaptionRow(**row) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise DamagedShardError(
            f"{store.uri(path)}: not a captions file ({error}); delete it and the captions are "
            "made again"
        ) from error


def _expect_texts(table: pa.Table) -> None:
    for column in table.schema:
        if column.type != pa.string() or table.column(column.name).null_count:
            raise TypeError(f"column {column.name}: wanted texts, found {column.type}")


def _check_name(source_shard: str) -> None:
    if not source_shard or "/" in source_shard or source_shard.startswith("."):
        raise ValueError(
            f"source shard {source_shard!r}: wanted a name without slashes and leading dot"
        )
