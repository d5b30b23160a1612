"""Generation on a local Ray does what the single-process runner does, and can be resumed."""

from __future__ import annotations

import pytest
import ray

from pipeline.loop.local_runner import run_units
from pipeline.loop.plan import make_plan
from runs.directory import claim_run_directory
from schemas.names import namespace_of, registry_name
from schemas.sample import JSON_MEMBER
from storage.files.stores import open_store
from storage.records.captions import read_captions
from tests.kit.faults.cluster import local_ray, stopped_loops, wait_until
from tests.kit.small_run import (
    all_commits,
    all_rows,
    digests,
    make_config,
    make_control,
    make_generator,
    open_run_source,
    prepare,
    publish,
)

pytestmark = pytest.mark.ray

SLOW = {"num_steps": 60, "batch_size": 4}
WAIT_S = 120


@pytest.fixture(scope="module", autouse=True)
def one_node():
    with local_ray():
        yield


@pytest.fixture
def start_loop():
    from pipeline.on_ray.coordinator import GenerationLoop

    with stopped_loops(GenerationLoop) as start:
        yield start


def assert_committed_is_the_plan(config):
    plan = make_plan(config, open_run_source(config).shards("train"))
    commits = all_commits(config)
    assert sorted(c.unit.unit_id for c in commits) == sorted(u.unit_id for u in plan)
    rows = all_rows(config)
    assert len({(row.round, row.key) for row in rows}) == len(rows)
    assert sum(unit.num_samples for unit in plan) == len(rows)
    assert len(digests(config)) > 0  # reads every tar, and checks its digest


def test_generation_on_ray_equals_the_single_process_runner(tmp_path, start_loop):
    from pipeline.on_ray.captions import caption_source_on_ray

    local, remote = make_config(tmp_path, "local"), make_config(tmp_path, "remote")
    run_units(make_control(local), make_generator(local), prepare(local))

    assert caption_source_on_ray(remote, remote.run.url) == 2
    assert caption_source_on_ray(remote, remote.run.url) == 0
    captions = [read_captions(open_store(each.run.url)) for each in (local, remote)]
    assert captions[0] == captions[1]
    publish(remote, 0)
    loop = start_loop(remote, num_generators=2)
    assert loop.join(WAIT_S) == "finished"

    assert_committed_is_the_plan(remote)
    leave_out = (JSON_MEMBER,)  # names the run
    assert digests(remote, leave_out=leave_out) == digests(local, leave_out=leave_out)
    assert loop.gauges()["samples_ok"] == 8
    assert loop.gauges()["units"] == "4 / 4"


def test_a_loop_that_was_stopped_is_resumed_with_other_operations(tmp_path, start_loop):
    begun = make_config(tmp_path, "stopped", creator=SLOW)
    store = prepare(begun)
    config = claim_run_directory(store, begun)
    loop = start_loop(config)
    wait_until(lambda: len(all_commits(config)) > 0, "the first unit")
    loop.stop(timeout_s=0)
    before = {c.unit.unit_id: c.attempt for c in all_commits(config)}
    changed = make_config(
        tmp_path, "stopped", creator={**SLOW, "batch_size": 2}, model={"device": "cpu:0"}
    )
    resumed = claim_run_directory(store, changed)
    assert start_loop(resumed, num_generators=2).join(WAIT_S) == "finished"
    assert_committed_is_the_plan(config)
    after = {c.unit.unit_id: c.attempt for c in all_commits(config)}
    assert before.items() <= after.items()


def test_two_runs_of_one_folder_name_on_one_ray_do_not_meet(tmp_path, start_loop):
    configs = [make_config(tmp_path / place, "run") for place in ("a", "b")]
    for number, config in enumerate(configs):
        prepare(config)
        for version in range(1, number + 1):
            publish(config, version)
    loops = [start_loop(config) for config in configs]
    assert [loop.join(WAIT_S) for loop in loops] == ["finished", "finished"]
    for version, config in enumerate(configs):
        assert_committed_is_the_plan(config)
        assert {row.creation_version for row in all_rows(config)} == {version}
        assert {row.run_id for row in all_rows(config)} == {config.run_id}
        registry = ray.get_actor(registry_name(), namespace=namespace_of(config.run_id))
        assert ray.get(registry.latest.remote())[0].version == version
    assert configs[0].run_id != configs[1].run_id
