"""A process of its own that commits units, and is killed or raced by the tests.

``python commit_worker.py <crash|race|commit> <store URL> <attempt> <number of units>``
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.manifest import ManifestRow
from schemas.run_layout import shard_path
from schemas.unit import Unit
from storage.files.stores import RunStore, open_store
from storage.manifests.table import commit_unit
from storage.manifests.unit_outcome import UnitCommit
from storage.samples.shards import pack_tar

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES_PER_UNIT = 8
CRASH_POINTS = ("while_writing", "before_link", "after_link")


def make_unit(number: int) -> Unit:
    return Unit(
        round=number % 3,
        kind="synthesize",
        source_shard="s",
        keys=tuple(f"k{number}_{index}" for index in range(SAMPLES_PER_UNIT)),
        variants=1,
        seed=0,
        recipe_hash="f00d",
    )


def write_and_commit(
    store: RunStore, number: int, attempt: str, *, image_png: bytes | None = None
) -> bool:
    """As a generator does: the tar under a name of its own, then the manifest."""
    unit = make_unit(number)
    content = image_png or attempt.encode() * 500
    packed = pack_tar([(key, {"image.png": content}) for key in unit.keys])
    tar = shard_path(round_index=unit.round, version=0, unit_id=unit.unit_id, attempt=attempt)
    store.write_bytes(tar, packed.data)
    rows = [
        ManifestRow(
            run_id="r",
            round=unit.round,
            unit_id=unit.unit_id,
            unit_kind=unit.kind,
            attempt=attempt,
            key=key,
            tar_uri=tar,
            tar_offset=packed.offsets[key][0],
            tar_size=packed.offsets[key][1],
            tar_sha256=packed.sha256,
            status="ok",
            source_shard="s",
            source_key=key,
            creation_version=0,
        )
        for key in unit.keys
    ]
    return commit_unit(store, UnitCommit(unit=unit, rows=rows, summary={"attempt": attempt}))


def die(*_arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str) -> None:
    """Kill this process when it next comes to a point of the commit."""
    original = RunStore.put_if_absent

    def put(store: RunStore, rel: str, data: bytes) -> None:
        if point == "while_writing":
            os.fsync = die
        elif point == "before_link":
            Path.hardlink_to = die
        elif point == "after_link":
            Path.unlink = die
        original(store, rel, data)

    RunStore.put_if_absent = put


def fork(run: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    run()
    sys.stdout.flush()
    os._exit(0)


def crash(store: RunStore, attempt: str) -> None:
    """Commit unit i in a child that dies at the i-th crash point; say what became of each."""

    def commit_and_die(number: int) -> None:
        die_at(CRASH_POINTS[number])
        write_and_commit(store, number, attempt)

    for number in range(len(CRASH_POINTS)):
        child = fork(lambda number=number: commit_and_die(number))
        _, status = os.waitpid(child, 0)
        was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        os.write(1, f"{was_killed}\n".encode())


def race(store: RunStore, count: int) -> None:
    """Two children commit the same units at the same time."""
    gate_out, gate_in = os.pipe()

    def wait_and_commit(attempt: str) -> None:
        os.close(gate_in)
        os.read(gate_out, 1)
        commit(store, attempt, count)

    children = [fork(lambda attempt=attempt: wait_and_commit(attempt)) for attempt in ("l", "r")]
    os.close(gate_in)
    for child in children:
        os.waitpid(child, 0)


def commit(store: RunStore, attempt: str, count: int) -> None:
    for number in range(count):
        won = write_and_commit(store, number, attempt)
        os.write(1, f"{attempt} {make_unit(number).unit_id} {int(won)}\n".encode())


def main(mode: str, url: str, attempt: str, count: str) -> None:
    store = open_store(url)
    if mode == "crash":
        crash(store, attempt)
    elif mode == "race":
        race(store, int(count))
    else:
        commit(store, attempt, int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
