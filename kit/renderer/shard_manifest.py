"""The table of a folder of rendered shards: one row per sample, and each shard's digest."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.digest import sha256_of
from schemas.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_NAME = "manifest.parquet"
COLUMNS = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("caption", pa.string()),
        ("seed", pa.int64()),
        ("view", pa.int64()),
        ("tar_sha256", pa.string()),
    ]
)


def write_manifest(folder: Path) -> int:
    """Write `manifest.parquet` next to the shards `<split>-<number>.tar` of a folder.

    Returns:
        The number of samples.

    Raises:
        SourceError: If the folder holds no shards.
    """
    rows = [row for shard in sorted(folder.glob("*.tar")) for row in shard_rows(shard)]
    if not rows:
        raise SourceError(f"wanted shards named <split>-<number>.tar; found none in {folder}")
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), folder / MANIFEST_NAME)
    return len(rows)


def shard_rows(shard: Path) -> list[dict[str, str | int]]:
    """Return a row for each sample of a shard, in the order of the tar.

    Raises:
        SourceError: If a json member is damaged.
    """
    digest = sha256_of(shard.read_bytes())
    rows: list[dict[str, str | int]] = []
    with tarfile.open(shard) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            content = tar.extractfile(member) if extension == "json" else None
            if content is None:
                continue
            try:
                facts = json.load(content)
                row = {name: facts[name] for name in ("caption", "seed", "view")}
            except (ValueError, KeyError) as error:
                raise SourceError(
                    f"wanted caption, seed and view in {member.name} of {shard}; "
                    f"found {error!r}; render the shard again"
                ) from error
            split = shard.name.rpartition("-")[0]
            rows.append(
                {"split": split, "shard": shard.name, "key": key, "tar_sha256": digest, **row}
            )
    return rows
