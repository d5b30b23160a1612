"""The rooms shipped with the project: WebDataset tars with exact labels and a Parquet manifest."""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from schemas.errors import DamagedShardError, SampleError, SourceError
from schemas.sample import IGNORE_ID, Sample, SourceShard, Task, UnreadableSample
from sources.protocol import Split, resolve_path
from storage.codecs import decode_sample
from storage.filesystem import open_store
from storage.shards import load_shard, read_tar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.config import RoomsSource as RoomsConfig

NUM_CLASSES = 21
"""Void (id 0, never scored) and twenty kinds of things."""

VOID_ID = 0
MANIFEST_FILE = "manifest.parquet"
_COLUMNS = ("split", "shard", "key", "tar_sha256")
_RAW_SHARDS_KEPT = 32

Row = dict[str, Any]


class RoomsSource:
    """Rendered rooms with exact normals, depth and class ids.

    ``train`` is cut to the first ``num_labelled`` keys in the manifest's order, ``validation``
    and ``test`` likewise. Void pixels of ``semseg`` come as ``IGNORE_ID``.
    """

    def __init__(self, config: RoomsConfig, tasks: Sequence[Task]) -> None:
        """Read the manifest.

        Args:
            config: Section ``source`` of a run.
            tasks: Tasks whose labels are kept.

        Raises:
            SourceError: If the folder or its manifest is missing or malformed.
        """
        self._store = open_store(resolve_path(config.root))
        self._tasks = tuple(tasks)
        self._raw: OrderedDict[str, dict[str, dict[str, bytes]]] = OrderedDict()
        rows = self._read_manifest(config.root)
        limits: dict[Split, int] = {
            "train": config.num_labelled,
            "validation": config.num_validation,
            "test": config.num_test,
        }
        chosen = {split: _take(rows, split, limit, config) for split, limit in limits.items()}
        self._shards = {split: self._group(part) for split, part in chosen.items()}
        self._tars = {_shard_name(row): (row["shard"], row["tar_sha256"]) for row in rows}

    @property
    def name(self) -> str:
        """``rooms``."""
        return "rooms"

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels, those of the first training image."""
        first = self._shards["train"][0]
        height, width, _ = self._decode(first.keys[0], self._members(first.name)).image.shape
        return height, width

    @property
    def num_classes(self) -> int:
        """Twenty-one, void among them."""
        return NUM_CLASSES

    def shards(self, split: Split) -> tuple[SourceShard, ...]:
        """The shards of a split, each with the keys that are used."""
        return self._shards[split]

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples; see :class:`sources.protocol.LabelledSource`.

        Raises:
            SourceError: If the tar is missing or does not match its digest in the manifest.
        """
        members = self._members(shard.name)
        for key in shard.keys if keys is None else keys:
            try:
                yield self._decode(key, members)
            except SampleError as error:
                yield UnreadableSample(
                    key=key, uri=shard.uri, reason=error.reason, detail=error.detail
                )

    def _decode(self, key: str, members: dict[str, dict[str, bytes]]) -> Sample:
        if key not in members:
            raise SampleError("key_missing", f"{key} is in the manifest but not in the tar")
        sample = decode_sample(key, members[key])
        labels = {task: label for task, label in sample.labels.items() if task in self._tasks}
        if "semseg" in labels:
            ids = labels["semseg"]
            labels["semseg"] = np.where(ids == VOID_ID, np.uint8(IGNORE_ID), ids)
        return replace(sample, labels=labels)

    def _group(self, rows: list[Row]) -> tuple[SourceShard, ...]:
        keys: dict[str, list[str]] = {}
        uris: dict[str, str] = {}
        for row in rows:
            keys.setdefault(_shard_name(row), []).append(str(row["key"]))
            uris[_shard_name(row)] = self._store.uri(str(row["shard"]))
        return tuple(SourceShard(name=n, uri=uris[n], keys=tuple(k)) for n, k in keys.items())

    def _members(self, shard_name: str) -> dict[str, dict[str, bytes]]:
        if shard_name not in self._raw:
            tar, sha256 = self._tars[shard_name]
            try:
                data = load_shard(self._store, tar, sha256)
            except DamagedShardError as error:
                raise SourceError(
                    f"{error}\nthis is a shard of the source: fetch it again, or render it with "
                    "jobs/render_rooms.py"
                ) from error
            self._raw[shard_name] = dict(read_tar(data))
            if len(self._raw) > _RAW_SHARDS_KEPT:
                self._raw.popitem(last=False)
        self._raw.move_to_end(shard_name)
        return self._raw[shard_name]

    def _read_manifest(self, root: str) -> list[Row]:
        if not self._store.exists(MANIFEST_FILE):
            raise SourceError(
                f"source.root = {root}: no {MANIFEST_FILE} there; point source.root at the folder "
                "of the shipped rooms (data/rooms) or render them with jobs/render_rooms.py"
            )
        table = pq.read_table(io.BytesIO(self._store.read_bytes(MANIFEST_FILE)))
        missing = sorted(set(_COLUMNS) - set(table.column_names))
        if missing or table.num_rows == 0:
            raise SourceError(
                f"{root}/{MANIFEST_FILE}: wanted rows with columns {', '.join(_COLUMNS)}, found "
                f"{table.num_rows} rows without {', '.join(missing) or 'none'}; render it again"
            )
        rows: list[Row] = table.select(list(_COLUMNS)).to_pylist()
        return rows


def _take(rows: list[Row], split: Split, limit: int, config: RoomsConfig) -> list[Row]:
    part = [row for row in rows if row["split"] == split]
    if len(part) < limit:
        field = {"train": "num_labelled"}.get(split, f"num_{split}")
        raise SourceError(
            f"source.{field} = {limit}: {config.root} has {len(part)} images of {split}; "
            f"set source.{field} to at most {len(part)}"
        )
    return part[:limit]


def _shard_name(row: Row) -> str:
    return str(row["shard"]).removesuffix(".tar")
