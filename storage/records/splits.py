"""Which samples each split of a run's source had when the run began: one Parquet file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import SourceError
from schemas.run_layout import SPLITS_FILE

if TYPE_CHECKING:
    from storage.files.stores import RunStore

SplitKeys = dict[str, dict[str, tuple[str, ...]]]
"""Split to name of a source shard to keys, all in the source's order."""

_COLUMNS = ("split", "shard", "key")
_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _COLUMNS])


def splits_to_bytes(splits: SplitKeys) -> bytes:
    """As a file: a row for each sample."""
    rows = [
        (split, shard, key)
        for split, shards in splits.items()
        for shard, keys in shards.items()
        for key in keys
    ]
    columns = [[row[i] for row in rows] for i in range(len(_COLUMNS))]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def read_splits(store: RunStore) -> SplitKeys | None:
    """The splits of a run; None if it has noted none.

    Raises:
        SourceError: If the file cannot be read.
    """
    try:
        data = store.read_bytes(SPLITS_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read(columns=list(_COLUMNS), use_threads=False)
        table = table.cast(_SCHEMA)
        rows = zip(*(table.column(name).to_pylist() for name in _COLUMNS), strict=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(
            f"{store.uri(SPLITS_FILE)}: not a list of splits ({error!s:.200}); remove it if the "
            "source is what it was when the run began: the next start writes it again"
        ) from error
    found: dict[str, dict[str, list[str]]] = {}
    for split, shard, key in rows:
        found.setdefault(split, {}).setdefault(shard, []).append(key)
    return {
        split: {shard: tuple(keys) for shard, keys in shards.items()}
        for split, shards in found.items()
    }
