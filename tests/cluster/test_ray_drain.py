"""A node that is drained with a deadline: its generator gives back, moves, and nothing is lost."""

from __future__ import annotations

import os
import time

import pytest

from pipeline.plan import make_plan
from pipeline.steering import Steering, write_steering
from storage.events import read_events
from storage.filesystem import open_store
from tests.pipeline.small_run import all_commits, all_rows, make_config, open_run_source, prepare

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

WAIT_S = 120
GENERATOR_NODE = {"num_cpus": 1, "labels": {"ray-subcluster": "generator"}}


@pytest.fixture
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "_system_config": {
                "health_check_initial_delay_ms": 0,
                "health_check_period_ms": 500,
                "health_check_timeout_ms": 1000,
            },
        },
    )
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    yield made
    ray.shutdown()
    made.shutdown()


def wait_until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s"
        time.sleep(0.05)


def test_a_drained_node_gives_its_units_back_and_its_generator_moves_paused_and_scaled_meanwhile(
    tmp_path, cluster
):
    from pipeline.ray_coordinator import GenerationLoop
    from pipeline.ray_drain import drain_node, draining_nodes

    spot = cluster.add_node(**GENERATOR_NODE)
    slow = {"num_steps": 60, "batch_size": 1}
    config = make_config(tmp_path, creator=slow, plan={"unit_size": 4})
    store = prepare(config)
    loop = GenerationLoop(config)
    loop.start(num_generators=1)
    try:
        wait_until(lambda: loop.gauges()["units_leased"] > 0, "a unit in the making")
        cluster.add_node(**GENERATOR_NODE)
        drain_node(spot.node_id, address=cluster.address, message="spot", remaining_s=6.0)
        assert 0 < draining_nodes()[spot.node_id] <= 6.0
        events = ("node_draining", "generator_draining", "unit_given_back")
        wait_until(lambda: set(events) <= told(store, loop), "the units given back")
        cluster.remove_node(spot, allow_graceful=False)
        write_steering(store, Steering(is_paused=True))
        wait_until(lambda: loop.state == "paused", "a pause")
        for number in (2, 1):
            write_steering(store, Steering(is_paused=True, num_generators=number))
            wait_until(lambda n=number: loop.gauges()["generators"] == n, f"{number} generators")
        write_steering(store, Steering(num_generators=1))
        assert loop.join(WAIT_S) == "finished"
    finally:
        loop.stop(timeout_s=0)

    plan = make_plan(config, open_run_source(config).shards("train"))
    assert {c.unit.unit_id for c in all_commits(config)} == {unit.unit_id for unit in plan}
    rows = all_rows(config)
    assert len({row.key for row in rows}) == len(rows) == 8
    assert {row.status for row in rows} == {"ok"}
    assert "attempt_failed" not in told(store, loop)


def told(store, loop):
    loop._report()
    return {event["event"] for event in read_events(open_store(store.url))}
