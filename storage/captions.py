"""Captions of source images: one Parquet file for each source shard, written once."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import AlreadyCommittedError, DamagedShardError
from schemas.run_layout import CAPTIONS_DIR, captions_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from storage.filesystem import RunStore

_SUFFIX = ".parquet"
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
    _check_name(source_shard)
    columns = [(source_shard, row.key, row.caption, row.model) for row in rows]
    records = [dict(zip(_COLUMNS, values, strict=True)) for values in columns]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=_SCHEMA), buffer, compression="zstd")
    try:
        store.put_if_absent(captions_path(source_shard), buffer.getvalue())
    except AlreadyCommittedError:
        return False
    return True


def captioned_shards(store: RunStore) -> set[str]:
    """Names of the source shards that have captions, from a listing alone."""
    names = store.list_dir(CAPTIONS_DIR)
    return {name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)}


def read_captions(store: RunStore) -> dict[tuple[str, str], CaptionRow]:
    """Read all captions, by source shard and key.

    Raises:
        DamagedShardError: If a file cannot be read.
    """
    found: dict[tuple[str, str], CaptionRow] = {}
    for shard in sorted(captioned_shards(store)):
        for row in _read(store, shard):
            found[shard, row.key] = row
    return found


def _read(store: RunStore, source_shard: str) -> list[CaptionRow]:
    path = captions_path(source_shard)
    data = store.read_bytes(path)
    try:
        table = pq.read_table(io.BytesIO(data), columns=["key", "caption", "model"])
        return [CaptionRow(**row) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise DamagedShardError(
            f"{store.uri(path)}: not a captions file ({error}); delete it and the captions are "
            "made again"
        ) from error


def _check_name(source_shard: str) -> None:
    if not source_shard or "/" in source_shard or source_shard.startswith("."):
        raise ValueError(
            f"source shard {source_shard!r}: wanted a name without slashes and leading dot"
        )
