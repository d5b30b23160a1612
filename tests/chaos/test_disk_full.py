"""A run directory on a disk that is full: what was committed stands, and the same command goes on.

The disk is a real one of a few megabytes, in memory; it is mounted if that is permitted. A limit on
the size of files stands for it where it is not.
"""

from __future__ import annotations

import errno
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from schemas.config_file import dump_config
from schemas.errors import AlreadyCommittedError
from schemas.unit import Unit
from storage.files.stores import RunStore, open_store
from storage.manifests.places import find_units
from tests.kit.job_process import Ended, environment, finish_job, ray_folder
from tests.kit.small_jobs import begin_run, expect_verified
from tests.kit.wholeness import expect_whole

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

DISK_MB = 16
ROOM_KB = 96
"""More than one unit of the small run takes with its manifest, and less than all four take."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, empty."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leave_kb: int) -> Path:
    """Take all room of a disk but a little; returns what takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        file.truncate(file.tell() - leave_kb * 1024)
    return ballast


def generate(
    store: RunStore, folder: Path, *options: str, limit: Callable[[], None] | None = None
) -> Ended:
    """jobs/generate.py as a user calls it."""
    arguments = ["--config", str(folder / "config.yaml"), *options]
    with ray_folder() as ray:
        return finish_job(
            "generate", arguments, log=folder / "log", environment=environment(ray), limit=limit
        )


def expect_told(ended: Ended, store: RunStore, *said: str) -> None:
    """The job failed, in few words, and left nothing half done."""
    assert ended.code == 1, ended.output
    failed = ended.output[ended.output.rindex("failed:") :]
    assert all(text in failed for text in (*said, "jobs/gc.py", "the same command resumes")), failed
    assert "Traceback" not in failed
    assert ended.survivors == []
    assert [path for path in Path(store.root).rglob(".*") if path.is_file()] == []


def expect_part(store: RunStore, plan: tuple[Unit, ...]) -> int:
    """Some units are whole and the others are not there; returns how many are."""
    committed = {place.unit_id for place in find_units(store)}
    expect_whole(store.url, [unit for unit in plan if unit.unit_id in committed])
    return len(committed)


@pytest.mark.parametrize("options", [("--local",), ()], ids=["one process", "ray"])
def test_a_full_disk_ends_the_run_with_a_remedy_and_room_lets_it_go_on(
    disk, tmp_path, options, monkeypatch
):
    config, store, plan = begin_run(tmp_path, run={"url": str(disk / "run")})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    ballast = fill(disk, leave_kb=ROOM_KB)
    ended = generate(store, tmp_path, *options)
    expect_told(ended, store, "no space left on the disk", f"mounted at {disk}")
    assert 0 < expect_part(store, plan) < len(plan)
    expect_verified(store)
    ballast.unlink()
    ended = generate(store, tmp_path, *options)
    assert ended.code == 0, ended.output
    rows = expect_whole(store.url, plan)
    assert {row["status"] for row in rows} == {"ok"}


def test_files_that_may_not_be_long_enough_end_the_run_with_a_remedy(tmp_path):
    config, store, plan = begin_run(tmp_path)
    (tmp_path / "config.yaml").write_text(dump_config(config))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    ended = generate(store, tmp_path, "--local", limit=limit)
    expect_told(ended, store, "a limit on the size of files")
    assert expect_part(store, plan) == 0
    assert generate(store, tmp_path, "--local").code == 0
    rows = expect_whole(store.url, plan)
    assert {row["status"] for row in rows} == {"ok"}


@pytest.mark.smoke
def test_a_full_disk_keeps_what_an_object_held_before(disk):
    store = open_store(str(disk / "run"))
    store.write_bytes("a/replaced", b"before")
    store.put_if_absent("a/created", b"before")
    fill(disk, leave_kb=8)
    for write in (store.write_bytes, store.put_if_absent):
        with pytest.raises(
            OSError, match=r"no space left .* MB free\); make space there"
        ) as caught:
            write("a/new", b"1" * 20_000)
        assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="no space left"):
        store.write_bytes("a/replaced", b"1" * 20_000)
    with pytest.raises(AlreadyCommittedError):
        store.put_if_absent("a/created", b"after")
    assert store.list_dir("a") == ["created", "replaced"]
    assert store.read_bytes("a/replaced") == store.read_bytes("a/created") == b"before"
    expect_whole(store.url, [])
