"""A folder of WebDataset shards with a Parquet manifest, read with every digest checked."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache

from schemas.errors import DamagedShardError, SampleError, SourceError
from schemas.sample import Sample, SourceShard, UnreadableSample
from storage.files.stores import open_store
from storage.samples.codecs import decode_sample
from storage.samples.members import MAX_PIXELS
from storage.samples.shards import load_shard, read_tar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sources.protocol import Split

MANIFEST_FILE = "manifest.parquet"
COLUMNS = ("split", "shard", "key", "tar_sha256")
MORE_COLUMNS = ("status", "group", "height", "width", "caption", "tasks")
_BYTES_KEPT = 512 * 2**20
_LEAST_BYTES = _BYTES_KEPT // 32

Row = dict[str, Any]
Members = dict[str, dict[str, bytes]]


class ShardFolder:
    """Shards that a manifest lists by ``split``, ``shard``, ``key`` and ``tar_sha256``.

    Rows whose ``status`` is not ``ok`` are left out. The bytes of shards read last are kept:
    512 MiB of them, at most 32.
    """

    def __init__(self, root: str, *, remedy: str) -> None:
        """Read the manifest.

        Args:
            root: Folder or URL.
            remedy: What to do if it is missing or a shard is damaged; the end of each message.

        Raises:
            SourceError: If the manifest is missing or malformed.
        """
        self._store = open_store(root)
        self._root = root
        self._remedy = remedy
        self._kept: LRUCache[str, Members] = LRUCache(_BYTES_KEPT, getsizeof=_kept_bytes)
        self.rows = self._read_manifest()
        self._tars = {shard_name(row): (str(row["shard"]), row["tar_sha256"]) for row in self.rows}

    def of_split(self, split: Split) -> list[Row]:
        """Rows of a split in the manifest's order."""
        return [row for row in self.rows if row["split"] == split]

    def group(self, rows: Iterable[Row]) -> tuple[SourceShard, ...]:
        """The shards that hold the samples of some rows, each with those keys."""
        keys: dict[str, list[str]] = {}
        uris: dict[str, str] = {}
        for row in rows:
            keys.setdefault(shard_name(row), []).append(str(row["key"]))
            uris[shard_name(row)] = self._store.uri(str(row["shard"]))
        return tuple(SourceShard(name=n, uri=uris[n], keys=tuple(k)) for n, k in keys.items())

    def read(
        self,
        shard: SourceShard,
        keys: Sequence[str] | None,
        *,
        finish: Callable[[Sample], Sample],
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples of a shard.

        Args:
            shard: One of :meth:`group`.
            keys: Keys to read; None: all of the shard.
            finish: Applied to each decoded sample; may raise SampleError.

        Raises:
            SourceError: If the tar is missing or does not match its digest in the manifest.
        """
        members = self._members(shard.name)
        for key in shard.keys if keys is None else keys:
            try:
                found = _members_of(key, members)
                yield finish(decode_sample(key, found, with_creator_maps=False))
            except SampleError as error:
                yield UnreadableSample(
                    key=key, uri=shard.uri, reason=error.reason, detail=error.detail
                )

    def size_of_first(self, shard: SourceShard) -> tuple[int, int]:
        """Height and width of the first image of a shard.

        Raises:
            SourceError: If it cannot be read.
        """
        found = next(self.read(shard, shard.keys[:1], finish=lambda sample: sample))
        if isinstance(found, UnreadableSample):
            raise SourceError(f"{found.uri}: {found.key}: {found.detail}; {self._remedy}")
        height, width, _ = found.image.shape
        return height, width

    def _members(self, name: str) -> Members:
        if (members := self._kept.get(name)) is None:
            tar, sha256 = self._tars[name]
            try:
                members = dict(read_tar(load_shard(self._store, tar, sha256)))
            except DamagedShardError as error:
                raise SourceError(
                    f"{error}\nthis is a shard of the source: {self._remedy}"
                ) from error
            self._kept[name] = members
        return members

    def _read_manifest(self) -> list[Row]:
        if not self._store.exists(MANIFEST_FILE):
            raise SourceError(
                f"source.root = {self._root}: no {MANIFEST_FILE} there; {self._remedy}"
            )
        where = self._store.uri(MANIFEST_FILE)
        data = self._store.read_bytes(MANIFEST_FILE)
        try:
            table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise SourceError(f"{where}: wanted Parquet, found {error}; {self._remedy}") from error
        missing = sorted(set(COLUMNS) - set(table.column_names))
        if missing or table.num_rows == 0:
            raise SourceError(
                f"{where}: wanted rows with columns {', '.join(COLUMNS)}, found {table.num_rows} "
                f"rows without {', '.join(missing) or 'none'}; {self._remedy}"
            )
        columns = [name for name in (*COLUMNS, *MORE_COLUMNS) if name in table.column_names]
        rows: list[Row] = table.select(columns).to_pylist()
        good = [row for row in rows if row.get("status", "ok") == "ok"]
        _expect_sound(good, where=where, remedy=self._remedy)
        return good


def _expect_sound(rows: Iterable[Row], *, where: str, remedy: str) -> None:
    """Check what a manifest of any origin says before anything is read.

    Raises:
        SourceError: If a row lacks a text or names a key or shard that cannot be, a size is none,
            or a key comes twice, which would put a sample into two splits.
    """
    seen: set[tuple[str, str]] = set()
    for row in rows:
        problem = _problem_of(row)
        place = row["shard"], row["key"]
        if not problem and place in seen:
            problem = f"key {row['key']!r} of {row['shard']} comes twice"
        if problem:
            raise SourceError(f"{where}: {problem:.300}; {remedy}")
        seen.add(place)


def _problem_of(row: Row) -> str:
    for name in COLUMNS:
        if not isinstance(row[name], str) or not row[name]:
            return f"{name}: wanted a text, found {row[name]!r:.80}"
    for name in ("height", "width"):
        size = row.get(name)
        if size is not None and not (isinstance(size, int) and 0 < size <= MAX_PIXELS):
            return f"{name}: wanted pixels, found {size!r:.80}"
    if any(sign in row["key"] for sign in "./\\\0"):
        return f"key {row['key']!r:.80}: wanted a name without dots and slashes"
    shard = PurePosixPath(row["shard"])
    if shard.is_absolute() or ".." in shard.parts or "://" in row["shard"]:
        return f"shard {row['shard']!r:.80}: wanted a tar below the folder itself"
    return ""


def _members_of(key: str, members: Members) -> dict[str, bytes]:
    if key not in members:
        raise SampleError("key_missing", f"{key} is in the manifest but not in the tar")
    return members[key]


def shard_name(row: Row) -> str:
    """Name of the shard that a row's sample lies in."""
    return str(row["shard"]).removesuffix(".tar")


def _kept_bytes(members: Members) -> int:
    """What a shard counts for the limit; a larger one is kept as the only one."""
    size = sum(len(content) for files in members.values() for content in files.values())
    return min(max(size, _LEAST_BYTES), _BYTES_KEPT)
