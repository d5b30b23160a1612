"""Which samples each split of a run's source had when the run began: one Parquet file."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import SourceError
from schemas.run_layout import SPLITS_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.files.stores import RunStore

SplitKeys = dict[str, dict[str, tuple[str, ...]]]
"""Split to name of a source shard to keys, all in the source's order."""

_COLUMNS = ("split", "shard", "key")
_SIGN_COLUMN = "files"
_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _COLUMNS])
_WHOLE_SCHEMA = _SCHEMA.append(pa.field(_SIGN_COLUMN, pa.int64()))
_READING = b"reading"


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitsRecord:
    """What a run notes of its source.

    Attributes:
        splits: The samples.
        signs: Key to a number that changes with the sample's files; keys without one are absent.
        reading: What decides how the files are read, by field; None in files that lack it.
    """

    splits: SplitKeys
    signs: Mapping[str, int] = field(default_factory=dict)
    reading: Mapping[str, Any] | None = None


def splits_to_bytes(record: SplitsRecord) -> bytes:
    """As a file: a row for each sample."""
    rows = [
        (split, shard, key, record.signs.get(key))
        for split, shards in record.splits.items()
        for shard, keys in shards.items()
        for key in keys
    ]
    columns = [[row[i] for row in rows] for i in range(len(_WHOLE_SCHEMA))]
    schema = _WHOLE_SCHEMA
    if record.reading is not None:
        schema = schema.with_metadata({_READING: json.dumps(dict(record.reading))})
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def read_splits(store: RunStore) -> SplitKeys | None:
    """The splits of a run; None if it has noted none.

    Raises:
        SourceError: If the file cannot be read.
    """
    record = read_splits_record(store)
    return record.splits if record else None


def read_splits_record(store: RunStore) -> SplitsRecord | None:
    """All that a run noted of its source; None if it has noted nothing.

    Raises:
        SourceError: If the file cannot be read.
    """
    try:
        data = store.read_bytes(SPLITS_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _parse(data)
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise SourceError(
            f"{store.uri(SPLITS_FILE)}: not a list of splits ({error!s:.200}); remove it if the "
            "source is what it was when the run began: the next start writes it again"
        ) from error


def _parse(data: bytes) -> SplitsRecord:
    file = pq.ParquetFile(io.BytesIO(data))
    schema = file.schema_arrow
    table = file.read(columns=[*_COLUMNS, _SIGN_COLUMN], use_threads=False)
    columns = [table.select(_COLUMNS).cast(_SCHEMA).column(name).to_pylist() for name in _COLUMNS]
    found: dict[str, dict[str, list[str]]] = {}
    for split, shard, key in zip(*columns, strict=True):
        found.setdefault(split, {}).setdefault(shard, []).append(key)
    signs: dict[str, int] = {}
    if _SIGN_COLUMN in schema.names:
        numbers = table.column(_SIGN_COLUMN).cast(pa.int64()).to_pylist()
        signs = {key: n for key, n in zip(columns[2], numbers, strict=True) if n is not None}
    noted = (schema.metadata or {}).get(_READING)
    reading = None if noted is None else dict(json.loads(noted))
    return SplitsRecord(
        splits={
            split: {shard: tuple(keys) for shard, keys in shards.items()}
            for split, shards in found.items()
        },
        signs=signs,
        reading=reading,
    )
