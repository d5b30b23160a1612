"""Shards: equal samples give equal bytes, independent readers agree, damage is noticed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import webdataset as wds

from schemas.digest import sha256_of
from schemas.errors import DamagedShardError
from storage.files.stores import RunStore, open_store
from storage.samples import shards

MEMBERS = {"image.png": b"I" * 700, "normals.png": b"N" * 512, "json": b"{}", "extra.txt": b"e"}
SAMPLES = [("a_0", MEMBERS), ("b_0", {"json": b"[]", "image.png": b""}), ("c", MEMBERS)]


def test_the_bytes_do_not_depend_on_the_order_of_members() -> None:
    backwards = [(key, dict(reversed(members.items()))) for key, members in SAMPLES]
    packed = shards.pack_tar(SAMPLES)
    assert shards.pack_tar(backwards) == packed
    assert packed.sha256 == sha256_of(packed.data)


def test_the_bytes_are_the_same_for_ever() -> None:
    packed = shards.pack_tar([("a_0", {"image.png": b"1", "json": b"{}"})])
    assert packed.sha256 == "cf4f8d75f3d95ef5c041c1cd0c811d2b65411bbd49559fa10e3dcd373b39d911"


def test_members_lie_together_with_the_json_last_and_no_times_or_owners() -> None:
    with tarfile.open(fileobj=io.BytesIO(shards.pack_tar(SAMPLES).data)) as archive:
        headers = archive.getmembers()
    assert [header.name for header in headers[:4]] == [
        "a_0.image.png",
        "a_0.normals.png",
        "a_0.extra.txt",
        "a_0.json",
    ]
    facts = {(h.mtime, h.uid, h.gid, h.uname, h.gname, h.mode, h.isfile()) for h in headers}
    assert facts == {(0, 0, 0, "", "", 0o644, True)}


def test_what_is_packed_reads_back_in_order() -> None:
    assert list(shards.read_tar(shards.pack_tar(SAMPLES).data)) == SAMPLES
    assert list(shards.read_tar(shards.pack_tar([]).data)) == []


def test_long_and_foreign_names_survive() -> None:
    samples = [("k" * 150, {"json": b"{}"}), ("küche_1", {"json": b"{}"})]
    packed = shards.pack_tar(samples)
    assert list(shards.read_tar(packed.data)) == samples
    with tarfile.open(fileobj=io.BytesIO(packed.data)) as archive:
        assert archive.getnames() == [f"{key}.json" for key, _ in samples]


def test_webdataset_reads_it_from_every_store(store: RunStore) -> None:
    store.write_bytes("shards/x.tar", shards.pack_tar(SAMPLES).data)
    shards.register_webdataset_openers()
    pipeline = wds.DataPipeline(
        wds.SimpleShardList([store.uri("shards/x.tar")]), wds.tarfile_to_samples()
    )
    found = [
        (sample["__key__"], {k: v for k, v in sample.items() if not k.startswith("__")})
        for sample in pipeline
    ]
    assert found == SAMPLES


@pytest.mark.parametrize("key", ["", "a.b", "a/b", ".hidden", "..", "a\\b"])
def test_a_key_that_readers_would_split_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        shards.pack_tar([(key, MEMBERS)])


def test_a_key_or_member_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        shards.pack_tar([("a", MEMBERS), ("a", MEMBERS)])
    with pytest.raises(ValueError, match="member"):
        shards.pack_tar([("a", {"../x": b""})])


def test_one_key_reads_alone(store: RunStore) -> None:
    packed = shards.pack_tar([*SAMPLES, ("k" * 150, {"json": b"{}"})])
    store.write_bytes("x.tar", packed.data)
    for key, members in shards.read_tar(packed.data):
        offset, size = packed.offsets[key]
        found = shards.read_member_range(store, "x.tar", offset=offset, size=size)
        assert found == (key, members)


@pytest.mark.parametrize("shift", [-512, 100, 512, 10**6])
def test_a_wrong_range_is_noticed(store: RunStore, shift: int) -> None:
    packed = shards.pack_tar(SAMPLES)
    store.write_bytes("x.tar", packed.data)
    offset, size = packed.offsets["b_0"]
    with pytest.raises(DamagedShardError):
        shards.read_member_range(store, "x.tar", offset=offset + shift, size=size)


def test_a_shard_loads_by_path_and_by_url_if_its_digest_matches(store: RunStore) -> None:
    packed = shards.pack_tar(SAMPLES)
    store.write_bytes("x.tar", packed.data)
    assert shards.load_shard(store, "x.tar", packed.sha256) == packed.data
    assert shards.load_shard(store, store.uri("x.tar"), packed.sha256) == packed.data
    with pytest.raises(DamagedShardError, match="sha256"):
        shards.load_shard(store, "x.tar", "0" * 64)
    with pytest.raises(DamagedShardError, match="found none"):
        shards.load_shard(store, "y.tar", packed.sha256)


def test_a_tar_cut_anywhere_is_noticed() -> None:
    data = shards.pack_tar(SAMPLES).data
    end = len(data.rstrip(b"\0"))
    for cut in range(0, end, 100):
        with pytest.raises(DamagedShardError):
            list(shards.read_tar(data[:cut]))


def test_a_malformed_header_is_not_taken_for_the_end() -> None:
    packed = shards.pack_tar(SAMPLES)
    offset, _ = packed.offsets["c"]
    damaged = bytearray(packed.data)
    damaged[offset] ^= 0xFF
    with pytest.raises(DamagedShardError, match="malformed"):
        list(shards.read_tar(bytes(damaged)))


def test_members_that_do_not_lie_together_are_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.image.png", "b.image.png", "a.json"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DamagedShardError, match="together"):
        list(shards.read_tar(buffer.getvalue()))


def test_a_tar_from_the_command_line_reads_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.image.png", "a.json"):
        (tmp_path / "in" / name).write_bytes(b"1")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "in", arcname=".")
    data = open_store(str(tmp_path)).read_bytes("x.tar")
    assert [key for key, _ in shards.read_tar(data)] == ["a"]


def test_shards_are_not_written_through_webdataset() -> None:
    shards.register_webdataset_openers()
    with pytest.raises(ValueError, match="wanted mode 'rb'"):
        wds.gopen("memory://x/y.tar", "wb")
