"""Check stored bytes against what names them: shards, manifests, weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.digest import sha256_of
from schemas.errors import DamagedShardError, SampleError
from schemas.run_layout import weights_dir
from storage.records.weights import list_versions, read_manifest, read_weights
from storage.samples.codecs import decode_sample
from storage.samples.shards import END_OF_ARCHIVE, read_tar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from schemas.manifest import ManifestRow
    from schemas.weights import Series
    from storage.files.stores import RunStore
    from storage.manifests.unit_outcome import UnitCommit

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
    """Check that a unit's rows are those that it was planned to make, and add up."""
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
    """Read the shards of a unit once: digest, every member of every sample, places."""
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


def check_weights(store: RunStore, version: int, *, series: Series = "creation") -> list[Problem]:
    """Check the tensors of a committed version against its manifest."""
    path = weights_dir(version, series)
    try:
        read_weights(store, version, series=series)
    except DamagedShardError as error:
        remedy = f"{RESTORE}, or delete {path}: the version before is then the newest"
        return [Problem(path, str(error), remedy)]
    return []


def _check_shard(store: RunStore, path: str, rows: Sequence[ManifestRow]) -> list[str]:
    wanted = {row.key: row for row in rows}
    texts: list[str] = []
    try:
        data = store.read_bytes(path)
    except FileNotFoundError:
        return ["wanted a committed shard, found none"]
    try:
        for key, members in read_tar(data):
            texts += _check_sample(wanted.pop(key, None), key, members, data)
    except DamagedShardError as error:
        texts.append(f"not a whole tar ({error})")
        wanted = {}
    if wanted:
        texts.append(f"{len(wanted)} of its samples are not in it, first {min(wanted)}")
    digests, found = {row.tar_sha256 for row in rows}, sha256_of(data)
    if digests != {found}:
        texts.append(f"wanted sha256 {' and '.join(sorted(digests))}, found {found}")
    return texts


def _check_sample(
    row: ManifestRow | None, key: str, members: Mapping[str, bytes], tar: bytes
) -> list[str]:
    if row is None:
        return [f"{key}: in the shard without a row"]
    texts = []
    try:
        decode_sample(key, members)
    except SampleError as error:
        texts.append(f"{key}: {error}")
    if row.tar_offset >= 0 and not _is_at(tar, row, members):
        texts.append(f"{key}: not where its row says {(row.tar_offset, row.tar_size)}")
    return texts


def _is_at(tar: bytes, row: ManifestRow, members: Mapping[str, bytes]) -> bool:
    part = tar[row.tar_offset : row.tar_offset + row.tar_size]
    try:
        return list(read_tar(part + END_OF_ARCHIVE)) == [(row.key, members)]
    except DamagedShardError:
        return False


class NamedWeights:
    """Compares the weights that rows name with those that are published."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._digests: dict[Series, dict[int, str]] = {"creation": {}, "creator": {}}

    def check_published(self) -> Iterator[Problem]:
        """Check every version of every series; later rows are compared with these."""
        for series, digests in self._digests.items():
            for version in list_versions(self._store, series=series):
                problems = check_weights(self._store, version, series=series)
                yield from problems
                digests[version] = (
                    "" if problems else read_manifest(self._store, version, series=series).sha256
                )

    def count(self, series: Series) -> int:
        """Number of published versions, damaged ones too."""
        return len(self._digests[series])

    def problems(self, commit: UnitCommit) -> Iterator[tuple[str, str]]:
        """What speaks against the weights that a unit's rows name, and the folder to restore.

        Old creation weights may have been removed; a creator's that good rows name may not.
        """
        for version, digest in {(r.creation_version, r.head_hash) for r in commit.rows}:
            if self._is_other("creation", version, digest):
                text = f"labelled with other weights than version {version} is now"
                yield text, weights_dir(version)
        good = (row for row in commit.rows if row.status == "ok" and row.creator_version >= 0)
        for version, digest in {(row.creator_version, row.creator_hash) for row in good}:
            if not self._is_there("creator", version):
                text = f"made with version {version} of the creator, which is not there"
                yield text, weights_dir(version, "creator")
            elif self._is_other("creator", version, digest):
                text = f"made with other weights than version {version} of the creator is now"
                yield text, weights_dir(version, "creator")

    def _is_other(self, series: Series, version: int, digest: str) -> bool:
        return bool(digest) and self._digests[series].get(version, digest) != digest

    def _is_there(self, series: Series, version: int) -> bool:
        # It may have been published after the others were listed.
        known = self._digests[series]
        return version in known or version in list_versions(self._store, series=series)


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
