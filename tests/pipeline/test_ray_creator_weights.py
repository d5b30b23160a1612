"""Both series of weights on their way to generators on a local Ray."""

from __future__ import annotations

import pytest
import ray

from pipeline.loop.local_runner import run_units
from schemas.errors import RunFailedError
from schemas.names import namespace_of, registry_name
from schemas.sample import JSON_MEMBER
from storage.files.stores import open_store
from tests.kit.faults.cluster import local_ray, stopped_loops
from tests.kit.learned_creator import TintCreator, publish_creator
from tests.kit.learned_generators import LearnedStarter
from tests.kit.small_run import (
    all_commits,
    all_rows,
    digests,
    make_config,
    make_control,
    make_generator,
    prepare,
)

pytestmark = pytest.mark.ray

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


def test_a_creator_that_learns_makes_on_ray_what_it_makes_in_one_process(tmp_path, start_loop):
    local, remote = make_config(tmp_path, "local"), make_config(tmp_path, "remote")
    for config in (local, remote):
        prepare(config)
        publish_creator(config, 0)
        publish_creator(config, 1)
    generator = make_generator(local, creator=TintCreator())
    run_units(make_control(local), generator, open_store(local.run.url))
    loop = start_loop(remote, starter=LearnedStarter(remote))
    assert loop.join(WAIT_S) == "finished"
    leave_out = (JSON_MEMBER,)  # names the run
    assert digests(remote, leave_out=leave_out) == digests(local, leave_out=leave_out)
    assert {(row.creation_version, row.creator_version) for row in all_rows(remote)} == {(0, 1)}


def test_the_registry_holds_the_newest_of_each_series(tmp_path):
    from pipeline.on_ray.registry import start_registry
    from trainers.on_ray.worker import registry_hint

    config = make_config(tmp_path)
    prepare(config)
    registry = start_registry(config)

    def held(series):
        found = ray.get(registry.latest.remote(series), timeout=WAIT_S)
        return None if found is None else (found[0], ray.get(found[1][0], timeout=WAIT_S))

    try:
        assert held("creation")[0].version == 0
        assert held("creator") is None
        first = publish_creator(config, 0)
        registry_hint(namespace_of(config.run_id), "creator")(0)
        assert ray.get(registry.publish.remote(0, "creator"), timeout=WAIT_S)
        assert held("creator")[0] == first
        assert held("creator")[1] != held("creation")[1]
        assert held("creation")[0].version == 0
        found = ray.get_actor(registry_name(), namespace=namespace_of(config.run_id))
        assert ray.get(found.latest.remote(), timeout=WAIT_S)[0] == held("creation")[0]
    finally:
        ray.kill(registry)


def test_without_the_creators_weights_the_run_stops_and_fails_no_unit(tmp_path, start_loop):
    config = make_config(tmp_path)
    prepare(config)
    loop = start_loop(config, starter=LearnedStarter(config))
    with pytest.raises(RunFailedError, match="no creator weights"):
        loop.join(WAIT_S)
    assert all_commits(config) == []
