"""Jobs that tidy and mend a run: killed before each of their changes, and beside a driver."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from jobs import compact
from jobs.gc import read_content, remove
from pipeline.loop.control import GenerationControl
from pipeline.loop.local_runner import run_units
from pipeline.make.attempt import Attempt
from pipeline.make.build import open_generator
from pipeline.make.commit import commit_failed_unit
from pipeline.make.isolate import Failure
from runs.garbage import find_garbage, limits_of
from schemas.config import RunConfig
from schemas.errors import DamagedShardError
from schemas.unit import Unit
from sources.live_shards import LiveShardList
from storage.files.inventory import store_clock
from storage.files.stores import RunStore
from storage.manifests.table import ManifestReader
from storage.records.weights import list_versions
from storage.samples.shards import load_shard
from tests.kit.faults.killed import in_a_process, lasting, start_process, strike
from tests.kit.small_jobs import (
    begin_run,
    collect_garbage,
    expect_verified,
    generate_again,
    let_a_day_go_by,
    retry_units,
)
from tests.kit.small_run import publish
from tests.kit.wholeness import expect_whole

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]


def grown_run(tmp_path: Path) -> tuple[RunConfig, RunStore, tuple[Unit, ...]]:
    """A run of two rounds with every kind of garbage, all of it a day old."""
    config, store, plan = begin_run(tmp_path, plan={"rounds": 2}, generation={"max_lead": 5})
    for version in range(6):
        publish(config, version, seen_images=100 * version)
        if version in {0, 5}:
            control = GenerationControl(config, store, plan)
            run_units(control, open_generator(config, store), store)
    store.write_bytes("shards/r=0000/w=00000000/0123456789abcdef.a1.tar", b"orphan")
    for step in (1, 2, 3):
        store.write_bytes(f"checkpoints/warm_up/local/{step:08d}/state.json", b"{}")
    Path(store.root, "manifest/.left.tmp").write_bytes(b"left")
    let_a_day_go_by(store.root)
    return config, store, plan


def labels(store: RunStore) -> list[tuple]:
    """What a trainer that starts now would learn from."""
    live = LiveShardList(store, poll_s=0)
    live.refresh()
    return sorted((each.unit_id, each.uri, each.sha256, each.num_samples) for each in live.shards)


def kill_before_each_change(job: Callable[[], object], after_each: Callable[[], object]) -> int:
    """Kill a job before its first change, then before its second, …, until it comes to its end.

    Each begins where the one before was killed. In turn they are let through none, one and two
    changes, so that they come on.

    Returns:
        How often it was killed.
    """
    kills = 0
    while code := in_a_process(partial(_strike_and_work, job, kills % 3)):
        assert code == -signal.SIGKILL
        after_each()
        kills += 1
    after_each()
    return kills


def _strike_and_work(job: Callable[[], object], after: int) -> None:
    strike(signal.SIGKILL, before=lasting, after=after)
    job()


def test_gc_killed_before_each_change_leaves_a_run_that_reads_as_before(tmp_path):
    _, store, plan = grown_run(tmp_path)
    wanted = labels(store)

    def check() -> None:
        assert labels(store) == wanted
        expect_whole(store.url, plan)
        assert list_versions(store)[-1] == 5

    def job() -> None:
        collect_garbage(store, "--delete", "--older-than", "24h")

    assert kill_before_each_change(job, check) > 10
    expect_verified(store)
    assert list_versions(store) == [0, 3, 4, 5]
    rows = expect_whole(store.url, plan)
    assert {row["status"] for row in rows if row["round"] == 0} == {"collected"}
    assert {row["status"] for row in rows if row["round"] == 1} == {"ok"}
    generate_again(store)
    assert labels(store) == wanted, "the same command finds nothing to do"


def test_compact_killed_before_each_change_leaves_a_run_that_reads_as_before(tmp_path):
    _, store, plan = begin_run(tmp_path, plan={"unit_size": 1})
    generate_again(store)
    wanted = labels(store)

    def check() -> None:
        assert labels(store) == wanted
        assert len(ManifestReader(store).refresh()) == len(plan)
        expect_whole(store.url, plan)

    def job() -> None:
        compact.main([store.url, "--units-per-file", "2"])

    assert kill_before_each_change(job, check) >= 3
    # What they replace goes later, killed anywhere as well.
    let_a_day_go_by(store.root)
    assert kill_before_each_change(lambda: collect_garbage(store, "--delete"), check) >= 8
    assert not list(Path(store.root, "manifest/units").rglob("*.parquet"))
    expect_verified(store)


def test_retry_killed_before_each_change_never_takes_away_what_stands(tmp_path):
    config, store, plan = begin_run(tmp_path)
    for number, unit in enumerate(plan[:3]):
        failure = Failure("killed", "its process was killed")
        commit_failed_unit(
            store, config, unit, failure=failure, attempt=Attempt(f"a{number}-failed")
        )
    generate_again(store)
    good = [len([row for row in expect_whole(store.url, plan) if row["status"] == "ok"])]

    def check() -> None:
        rows = expect_whole(store.url, plan)
        good.append(len([row for row in rows if row["status"] == "ok"]))
        assert good[-1] >= good[-2]
        expect_verified(store)

    assert kill_before_each_change(lambda: retry_units(store), check) >= 3
    assert (good[0], good[-1]) == (2, 8)


AGE_S = 3.0
"""Stands for the day that gc grants by default."""


def drive_slowly(
    config: RunConfig, store: RunStore, plan: tuple[Unit, ...], *, wait_s: float
) -> None:
    """Work on a plan of three rounds, a new version after each."""
    control = GenerationControl(config, store, plan)
    generator = open_generator(config, store)
    for version in range(1, 4):
        run_units(control, generator, store)
        publish(config, version, seen_images=1000 * version)
        time.sleep(wait_s)
    control.weights_final = True
    assert run_units(control, generator, store).kind == "finished"


def test_gc_beside_a_driver_and_a_trainer_never_takes_what_they_read(tmp_path):
    config, store, plan = begin_run(
        tmp_path, plan={"rounds": 3, "unit_size": 1}, generation={"max_lead": 9}
    )
    driver = start_process(partial(drive_slowly, config, store, plan, wait_s=1.3 * AGE_S))
    problems: list[str] = []
    stop = threading.Event()

    def learn() -> None:
        live = LiveShardList(store, poll_s=0.5, seed=1)
        while not stop.is_set():
            shard = live.draw()
            if shard is None:
                continue
            try:
                load_shard(store, shard.uri, shard.sha256)
            except DamagedShardError as error:
                problems.append(f"{shard.unit_id}: {error}")

    trainer = threading.Thread(target=learn)
    trainer.start()
    removed = 0
    try:
        while not (code := _ended_now(driver)):
            limits = limits_of(config, before=store_clock(store) - timedelta(seconds=AGE_S))
            found = find_garbage(read_content(store), limits)
            remove(store, found)
            removed += len(found)
    finally:
        stop.set()
        trainer.join()
    assert code == [0]
    assert removed > 0, "something grew old meanwhile"
    assert problems == []
    expect_whole(store.url, plan)
    expect_verified(store)


def _ended_now(child: int) -> list[int]:
    """Exit code of a process in a list; empty while it works."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return [os.waitstatus_to_exitcode(status)] if pid else []
