"""One contract for every store: whole objects, fresh listings, and one winner."""

from __future__ import annotations

import errno
import pickle  # noqa: TID251 - Ray sends stores between processes so
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier

import pytest

from schemas.errors import AlreadyCommittedError, ConfigError, UserError
from storage.files.stores import RunStore, open_store


def names_in(store: RunStore, folder: str) -> list[str]:
    """All names, leftovers too."""
    return sorted(path.name for path in Path(store.root, folder).iterdir())


def test_what_is_written_reads_back(store: RunStore) -> None:
    store.write_bytes("a/b/c.bin", b"first")
    store.write_bytes("a/b/c.bin", b"second")
    assert store.read_bytes("a/b/c.bin") == b"second"
    assert store.read_bytes("a/b/c.bin", start=1, end=4) == b"eco"
    assert store.read_bytes("a/b/c.bin", start=4, end=99) == b"nd"
    assert store.read_bytes("a/b/c.bin", start=50, end=99) == b""
    assert store.read_bytes(store.uri("a/b/c.bin")) == b"second"


def test_an_object_is_created_once(store: RunStore) -> None:
    store.put_if_absent("manifest/x", b"first")
    with pytest.raises(AlreadyCommittedError, match="manifest/x"):
        store.put_if_absent("manifest/x", b"second")
    assert store.read_bytes("manifest/x") == b"first"


def test_listings_show_files_and_folders_and_are_never_stale(store: RunStore) -> None:
    assert store.list_dir("units") == []
    assert store.list_dir("") == []
    store.write_bytes("units/r=0001/b.parquet", b"1")
    store.put_if_absent("units/r=0000/a.parquet", b"1")
    assert store.list_dir("units") == ["r=0000", "r=0001"]
    store.put_if_absent("units/c", b"")
    assert store.list_dir("units") == ["c", "r=0000", "r=0001"]
    assert store.list_dir("units/r=0000") == ["a.parquet"]
    assert store.list_dir("") == ["units"]


def test_another_handle_sees_what_was_written_at_once(store: RunStore) -> None:
    other = pickle.loads(pickle.dumps(store))
    assert other == store
    assert not other.exists("x/y")
    store.put_if_absent("x/y", b"1")
    assert other.exists("x/y")
    assert other.list_dir("x") == ["y"]
    assert other.read_bytes("x/y") == b"1"


def test_a_missing_object_is_file_not_found(store: RunStore) -> None:
    assert not store.exists("nothing")
    with pytest.raises(FileNotFoundError):
        store.read_bytes("nothing")


@pytest.mark.parametrize("path", ["../outside", "a/../../b", "", "memory://elsewhere/x"])
def test_a_path_cannot_leave_the_run(local_store: RunStore, path: str) -> None:
    with pytest.raises(ValueError, match="within the run"):
        local_store.write_bytes(path, b"")


def test_of_many_threads_one_creates(store: RunStore) -> None:
    is_remote = store.url.startswith("s3://")
    together = Barrier(8)

    def create(number: int, name: str) -> bool:
        together.wait()
        try:
            store.put_if_absent(name, str(number).encode())
        except AlreadyCommittedError:
            return False
        return True

    switch_interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for name in (f"commit{number}" for number in range(4 if is_remote else 20)):
                wins = list(pool.map(create, range(8), [name] * 8))
                assert wins.count(True) == 1
                assert store.read_bytes(name) == str(wins.index(True)).encode()
    finally:
        sys.setswitchinterval(switch_interval_s)


def test_a_relative_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("runs/../runs/a/")
    assert store.url == str(tmp_path / "runs/a")
    assert store.uri("shards/x.tar") == str(tmp_path / "runs/a/shards/x.tar")
    assert not (tmp_path / "runs").exists(), "opening creates nothing"
    assert open_store(f"file://{tmp_path}/runs/a") == store


def test_uris_keep_the_protocol() -> None:
    store = open_store("memory://bucket/run/")
    assert store.uri("a/b") == "memory://bucket/run/a/b"
    assert store.uri("s3://other/x.tar") == "s3://other/x.tar"


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("nosuch://x/y", "use a folder"),
        ("s3://", "wanted a bucket"),
        ("simplecache::s3://b/x", "chained"),
        ("", "wanted a folder"),
    ],
)
def test_a_wrong_url_says_what_to_do(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        open_store(url)


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_missing_package_is_a_user_error_that_names_the_extra() -> None:
    with pytest.raises(UserError, match=r"pip install '\.\[gcs\]'"):
        open_store("gs://bucket/run")


def test_leftovers_of_a_killed_writer_are_not_listed(local_store: RunStore) -> None:
    local_store.put_if_absent("units/a", b"1")
    Path(local_store.root, "units", ".0123.tmp").write_bytes(b"torn")
    assert local_store.list_dir("units") == ["a"]


def test_writing_leaves_nothing_else_behind(local_store: RunStore) -> None:
    local_store.put_if_absent("units/a", b"1")
    with pytest.raises(AlreadyCommittedError):
        local_store.put_if_absent("units/a", b"2")
    local_store.write_bytes("units/b", b"1")
    assert names_in(local_store, "units") == ["a", "b"]


def test_a_disk_without_hard_links_is_refused_with_a_remedy(
    local_store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(ConfigError, match="hard links"):
        local_store.put_if_absent("units/a", b"1")
    assert names_in(local_store, "units") == []
