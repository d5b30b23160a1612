"""Check stored bytes against what names them: shards, manifests, weights; in constant memory."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.errors import DamagedShardError, SampleError
from schemas.weights import WEIGHTS_FILE
from storage.files.stores import open_binary
from storage.records.weights import read_manifest, weights_files
from storage.samples.codecs import decode_sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from schemas.manifest import ManifestRow
    from storage.files.stores import RunStore
    from storage.manifests.unit_outcome import UnitCommit

_BLOCK_BYTES = 1 << 20
_END_BYTES = 2 * tarfile.BLOCKSIZE
STATUSES = ("ok", "filtered", "failed", "collected")

MAKE_AGAIN = "python jobs/retry.py RUN --units {unit}"
RESTORE = "copy it from a good copy of the run"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        path: The file, relative to the run.
        text: What is wrong.
        remedy: What to do.
    """

    path: str
    text: str
    remedy: str


def check_rows(commit: UnitCommit, *, path: str) -> list[Problem]:
    """Check that a unit's rows are those that it was planned to make, and add up.

    Args:
        commit: The unit.
        path: Its manifest.
    """
    unit, rows = commit.unit, commit.rows
    planned = {(key, variant) for key in unit.keys for variant in range(unit.variants)}
    made = Counter((row.source_key, row.variant) for row in rows)
    counts = Counter(row.status for row in rows)
    said: Mapping[str, int] = commit.summary.get("counts", {})
    # Rows were ok before their bytes were removed; the summary tells what was made.
    found = {**counts, "ok": counts["ok"] + counts["collected"]}
    texts = []
    if made.keys() != planned or made.total() != len(planned):
        texts.append(
            f"wanted {len(planned)} samples once each, found {made.total()} rows of "
            f"{len(made.keys() & planned)} of them"
        )
    if unknown := counts.keys() - set(STATUSES):
        texts.append(f"unknown status {sorted(unknown)}")
    if any(found.get(status, 0) != number for status, number in said.items()):
        texts.append(f"its summary counts {dict(said)}, its rows are {dict(counts)}")
    if any((row.status == "ok") != bool(row.tar_uri) for row in rows):
        texts.append("a row is ok without a shard, or names one without being ok")
    return [Problem(path, text, MAKE_AGAIN.format(unit=unit.unit_id)) for text in texts]


def check_shards(store: RunStore, commit: UnitCommit) -> list[Problem]:
    """Read the shards of a unit once: digest, every member of every sample, places.

    Args:
        store: The run.
        commit: The unit.
    """
    shards: dict[str, list[ManifestRow]] = {}
    for row in commit.rows:
        if row.status == "ok" and row.tar_uri:
            shards.setdefault(row.tar_uri, []).append(row)
    remedy = MAKE_AGAIN.format(unit=commit.unit.unit_id)
    return [
        Problem(path, text, remedy)
        for path, rows in shards.items()
        for text in _check_shard(store, path, rows)
    ]


def check_weights(store: RunStore, version: int) -> list[Problem]:
    """Check the tensors of a committed version against its manifest."""
    path = weights_files(version, "")[0].rpartition("/")[0]
    remedy = f"{RESTORE}, or delete {path}: the version before is then the newest"
    try:
        wanted = read_manifest(store, version).sha256
    except DamagedShardError as error:
        return [Problem(path, str(error), remedy)]
    for file in weights_files(version, wanted):
        try:
            if sha256_of_file(store, file) == wanted:
                return []
        except FileNotFoundError:
            continue
    return [Problem(f"{path}/{WEIGHTS_FILE}", f"no bytes with sha256 {wanted}", remedy)]


def sha256_of_file(store: RunStore, path: str) -> str:
    """Digest of an object, read block by block.

    Raises:
        FileNotFoundError: If there is none.
    """
    digest = hashlib.sha256()
    with closing(open_binary(store.uri(path))) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _check_shard(store: RunStore, path: str, rows: Sequence[ManifestRow]) -> list[str]:
    wanted = {row.key: row for row in rows}
    digests = {row.tar_sha256 for row in rows}
    texts: list[str] = []
    try:
        with closing(open_binary(store.uri(path))) as file:
            reader = _HashingReader(file)
            try:
                for key, members, place in _samples(reader):
                    texts += _check_sample(wanted.pop(key, None), key, members, place)
            except (tarfile.TarError, EOFError, DamagedShardError) as error:
                texts.append(f"not a whole tar ({error})")
                wanted = {}
            digest = reader.rest()
    except FileNotFoundError:
        return ["wanted a committed shard, found none"]
    if wanted:
        texts.append(f"{len(wanted)} of its samples are not in it, first {min(wanted)}")
    if digests != {digest}:
        texts.append(f"wanted sha256 {' and '.join(sorted(digests))}, found {digest}")
    return texts


def _check_sample(
    row: ManifestRow | None, key: str, members: Mapping[str, bytes], place: tuple[int, int]
) -> list[str]:
    if row is None:
        return [f"{key}: in the shard twice, or without a row"]
    texts = []
    try:
        decode_sample(key, members)
    except SampleError as error:
        texts.append(f"{key}: {error}")
    if row.tar_offset >= 0 and (row.tar_offset, row.tar_size) != place:
        texts.append(f"{key}: lies at {place}, its row says {(row.tar_offset, row.tar_size)}")
    return texts


def _samples(
    reader: _HashingReader,
) -> Iterator[tuple[str, dict[str, bytes], tuple[int, int]]]:
    """Samples of a tar with the first byte and the bytes of each; one sample is held at a time.

    Raises:
        DamagedShardError: If it is cut off, or a header is malformed.
    """
    current, members, start, end = "", dict[str, bytes](), 0, 0
    stream: Any = reader
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK_BYTES) as archive:
        for header in archive:
            file = archive.extractfile(header)
            if file is None:
                continue
            key, _, member = header.name.partition(".")
            if key != current and members:
                yield current, members, (start, end - start)
                members = {}
            if not members:
                start = header.offset
            current = key
            members[member] = file.read()
            blocks = -(-header.size // tarfile.BLOCKSIZE)
            end = header.offset_data + blocks * tarfile.BLOCKSIZE
        if members:
            yield current, members, (start, end - start)
    reader.rest()
    # tarfile takes a malformed header, and the end of a file cut off, for the end of the archive.
    if reader.last_content > end or reader.size < end + _END_BYTES:
        raise DamagedShardError(f"no end mark after byte {end} of {reader.size}")


class _HashingReader:
    """A stream that is hashed as it is read.

    Attributes:
        size: Bytes read so far.
        last_content: Where the last byte that is not zero ends.
    """

    def __init__(self, file: Any) -> None:
        self.size = 0
        self.last_content = 0
        self._file = file
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read and hash."""
        data: bytes = self._file.read(size)
        self._digest.update(data)
        if content := len(data.rstrip(b"\0")):
            self.last_content = self.size + content
        self.size += len(data)
        return data

    def rest(self) -> str:
        """Read to the end; returns the digest of everything."""
        while self.read(_BLOCK_BYTES):
            pass
        return self._digest.hexdigest()


class KeysOfRounds:
    """Proves that no key comes twice in a round, without holding the keys.

    A key begins with the id of the unit that made its image, and is unique in its unit: so it is
    enough that no two units of a round label the same images.
    """

    def __init__(self) -> None:
        self._image_units: set[tuple[int, str]] = set()

    def problems(self, commit: UnitCommit) -> list[str]:
        """What speaks against a unit's keys being its own."""
        unit = commit.unit
        images = unit.image_unit_id
        foreign = [row.key for row in commit.rows if not row.key.startswith(f"{images}_")]
        texts = [f"{foreign[0]}: named after another unit, may come twice"] if foreign else []
        if (unit.round, images) in self._image_units:
            texts.append(f"another unit of the round has the keys of {images}, too")
        self._image_units.add((unit.round, images))
        return texts
