"""Shards of rendered rooms: one tar at a time, and the table of a folder of them."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from kit.renderer.encode import encode_view, sample_key
from kit.renderer.render import render_room
from schemas.digest import sha256_of
from schemas.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: where, which rooms and how each is rendered."""

    path: Path
    seeds: range
    views: int
    size: int
    samples: int
    images_only: bool


def write_shards(tasks: Sequence[ShardTask], *, processes: int) -> Iterator[tuple[str, int, float]]:
    """Render shards side by side; yields what :func:`write_shard` returns for each."""
    if not tasks:
        return
    # Fresh interpreters: a renderer that already has threads must not be forked.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(processes, len(tasks))) as pool:
        yield from pool.imap(write_shard, tasks)


def write_shard(task: ShardTask) -> tuple[str, int, float]:
    """Render one shard and publish it whole under its name.

    Returns:
        The shard's name, its number of images and the seconds it took.
    """
    began = time.monotonic()
    handle, name = tempfile.mkstemp(dir=task.path.parent, prefix=".partial-")
    count = 0
    try:
        with os.fdopen(handle, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as shard:
                for member, content in _members(task):
                    shard.addfile(member, io.BytesIO(content))
                    count += member.name.endswith(".json")
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(task.path)
    finally:
        Path(name).unlink(missing_ok=True)
    return task.path.name, count, time.monotonic() - began


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


def _members(task: ShardTask) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for seed in task.seeds:
        for view in render_room(seed, task.views, size=task.size, samples=task.samples):
            key = sample_key(seed, view.view)
            for extension, content in encode_view(view, images_only=task.images_only).items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                yield member, content
