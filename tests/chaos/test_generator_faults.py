"""Generators that die, and the registry that they ask, while a run goes on."""

from __future__ import annotations

import pytest

from pipeline.loop.plan import make_plan
from pipeline.make.attempt import new_attempt
from storage.records.weights import read_manifest, read_weights
from tests.kit.faults.cluster import (
    WAIT_S,
    events_of,
    expect_planned_is_committed,
    kill_process,
    registry_of,
    running_cluster,
    wait_until,
)
from tests.kit.faults.faults import Faults, start_faulty_generator
from tests.kit.small_run import (
    all_commits,
    make_config,
    open_run_source,
    prepare,
    publish,
)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

HELD = "train-000000-02"
"""First sample of the second unit; each unit has two."""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with running_cluster(num_nodes=2) as made:
        yield made


@pytest.mark.smoke
def test_a_generator_killed_in_the_middle_of_a_unit_loses_and_doubles_nothing(tmp_path, start_loop):
    config = make_config(tmp_path)
    faults = Faults(config.run.url)
    faults.hold(HELD)
    prepare(config)
    loop = start_loop(config)
    wait_until(faults.held, "a unit in the making", loop)
    (pid,) = faults.held()
    kill_process(pid)
    faults.release()
    assert loop.join(WAIT_S) == "finished"
    assert {row["status"] for row in expect_planned_is_committed(config)} == {"ok"}
    (failed,) = events_of(loop, "attempt_failed")
    assert failed["reason"] == "generator_died"
    processes = {commit.summary["worker"].rpartition(":")[2] for commit in all_commits(config)}
    assert len(processes) == 2


def test_a_registry_killed_in_the_middle_of_a_run_comes_back_with_the_newest_weights(
    tmp_path, start_loop
):
    import ray

    config = make_config(tmp_path)
    faults = Faults(config.run.url)
    faults.hold(HELD)
    store = prepare(config)
    loop = start_loop(config)
    wait_until(faults.held, "a unit in the making", loop)
    ray.kill(registry_of(config), no_restart=False)
    publish(config, 1)
    faults.release()
    assert loop.join(WAIT_S) == "finished"

    versions = {row["creation_version"] for row in expect_planned_is_committed(config)}
    assert versions == {0, 1}
    held, (data,) = ray.get(registry_of(config).latest.remote(), timeout=WAIT_S)
    manifest, stored = read_weights(store, 1)
    assert held.version == 1
    assert held.sha256 == manifest.sha256
    assert ray.get(data) == stored


def test_a_registry_that_is_gone_for_good_is_not_needed(tmp_path, start_loop):
    import ray

    config = make_config(tmp_path)
    faults = Faults(config.run.url)
    faults.hold(HELD)
    store = prepare(config)
    loop = start_loop(config)
    wait_until(faults.held, "a unit in the making", loop)
    ray.kill(registry_of(config))
    publish(config, 1)
    faults.release()
    assert loop.join(WAIT_S) == "finished"
    rows = expect_planned_is_committed(config)
    newest = [row["head_hash"] for row in rows if row["creation_version"] == 1]
    assert set(newest) == {read_manifest(store, 1).sha256}


def test_two_attempts_at_one_unit_that_commit_at_once_leave_one_manifest_and_an_orphan(
    tmp_path, start_loop
):
    import ray

    config = make_config(tmp_path, plan={"unit_size": 8})
    faults = Faults(config.run.url)
    faults.hold(HELD)
    store = prepare(config)
    unit = make_plan(config, open_run_source(config).shards("train"))[0]
    actors = [start_faulty_generator(config) for _ in range(2)]
    try:
        attempts = [actor.generate.remote(unit, new_attempt(1)) for actor in actors]
        wait_until(lambda: len(faults.held()) == 2, "two attempts in the making")
        faults.release()
        results = ray.get(attempts, timeout=WAIT_S)
    finally:
        for actor in actors:
            ray.kill(actor)
    assert sorted(result.is_committed for result in results) == [False, True]
    assert start_loop(config).join(WAIT_S) == "finished"
    rows = expect_planned_is_committed(config)
    assert {row["status"] for row in rows} == {"ok"}

    named = {row["tar_uri"] for row in rows}
    (loser,) = (result.attempt for result in results if not result.is_committed)
    folder = "shards/r=0000/w=00000000"
    orphans = {f"{folder}/{name}" for name in store.list_dir(folder)} - named
    assert orphans == {f"{folder}/{unit.unit_id}.{loser}.tar"}
