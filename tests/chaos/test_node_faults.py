"""Machines that go away, announced or not, and machines that come while a run goes on."""

from __future__ import annotations

import pytest

from pipeline.make.drain import RESERVE_S
from storage.records.steering import Steering, write_steering
from storage.records.weights import read_manifest
from tests.kit.faults.cluster import (
    WAIT_S,
    add_generator_node,
    events_of,
    expect_planned_is_committed,
    running_cluster,
    wait_until,
)
from tests.kit.faults.faults import Faults
from tests.kit.job_process import session_of_living
from tests.kit.small_run import make_config, prepare, publish

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

ONE_BY_ONE = {"creator": {"batch_size": 1}, "plan": {"unit_size": 4}}
FIRST = "train-000000-00"
LAST_BUT_ONE = "train-000000-02"
"""Third of the four samples of the first unit."""


@pytest.fixture(scope="module")
def cluster():
    with running_cluster(num_nodes=1) as made:
        yield made


@pytest.mark.smoke
def test_a_drained_node_finishes_its_batch_and_its_generator_makes_the_rest_elsewhere(
    tmp_path, cluster, start_loop
):
    from pipeline.on_ray.drain import drain_node, draining_nodes

    config = make_config(tmp_path, **ONE_BY_ONE)
    faults = Faults(config.run.url)
    faults.hold(LAST_BUT_ONE)
    store = prepare(config)
    loop = start_loop(config)
    wait_until(faults.held, "a batch in the making", loop)
    (spot,) = cluster.worker_nodes
    add_generator_node(cluster)
    # With no more left than what is kept for a commit, no further batch may be begun.
    drain_node(spot.node_id, address=cluster.address, message="spot", remaining_s=RESERVE_S)
    assert draining_nodes().keys() == {spot.node_id}
    wait_until(lambda: events_of(loop, "generator_draining"), "a generator told to leave", loop)
    faults.release()
    wait_until(lambda: len(events_of(loop, "unit_given_back")) == 2, "both given back", loop)
    cluster.remove_node(spot, allow_graceful=False)
    assert loop.join(WAIT_S) == "finished"

    rows = expect_planned_is_committed(config)
    assert {row["status"] for row in rows} == {"ok"}
    back = events_of(loop, "unit_given_back")
    assert [(event["samples_done"], event["samples_kept"]) for event in back] == [(3, 3), (0, 0)]
    assert sorted(event["taken_over"] for event in events_of(loop, "unit_done")) == [0, 3]
    assert store.list_dir("partial") == []
    assert events_of(loop, "node_draining")
    assert not events_of(loop, "attempt_failed")


def test_a_run_is_paused_scaled_up_and_down_and_goes_on_without_a_restart(
    tmp_path, cluster, start_loop
):
    config = make_config(tmp_path, **ONE_BY_ONE)
    faults = Faults(config.run.url)
    faults.hold(LAST_BUT_ONE)
    store = prepare(config)
    loop = start_loop(config)
    wait_until(faults.held, "a unit in the making", loop)
    write_steering(store, Steering(is_paused=True))
    wait_until(lambda: loop.state == "paused", "a pause", loop)
    for number in (2, 1):
        write_steering(store, Steering(is_paused=True, num_generators=number))
        wait_until(lambda n=number: loop.gauges()["generators"] == n, f"{number}", loop)
    faults.release()
    write_steering(store, Steering(num_generators=1))
    assert loop.join(WAIT_S) == "finished"
    assert {row["status"] for row in expect_planned_is_committed(config)} == {"ok"}
    assert not events_of(loop, "attempt_failed")


def test_a_node_that_is_lost_without_notice_costs_only_the_unit_in_the_making_and_no_blame(
    tmp_path, cluster, start_loop
):
    config = make_config(tmp_path, **ONE_BY_ONE)
    faults = Faults(config.run.url)
    faults.hold(LAST_BUT_ONE)
    prepare(config)
    loop = start_loop(config)
    wait_until(faults.held, "a unit in the making", loop)
    (pid,), (lost,) = faults.held(), cluster.worker_nodes
    add_generator_node(cluster)
    cluster.remove_node(lost, allow_graceful=False)
    # A generator outlives its raylet for a moment, in which it could end the unit.
    wait_until(lambda: session_of_living(pid) is None, "the end of the lost node's generator")
    faults.release()
    assert loop.join(WAIT_S) == "finished"
    assert {row["status"] for row in expect_planned_is_committed(config)} == {"ok"}
    assert len(events_of(loop, "unit_given_back")) == 2
    assert not events_of(loop, "attempt_failed")


def test_a_generator_on_a_node_that_joins_late_proves_the_newest_weights_before_its_first_unit(
    tmp_path, cluster, start_loop
):
    config = make_config(tmp_path, plan={"unit_size": 1})
    faults = Faults(config.run.url)
    faults.hold(FIRST)
    store = prepare(config)
    loop = start_loop(config, num_generators=2)
    wait_until(faults.held, "a unit in the making", loop)
    publish(config, 1, seen_images=12)
    assert loop.gauges()["generators_ready"] == 1
    add_generator_node(cluster)
    wait_until(lambda: events_of(loop, "unit_done"), "a unit of the late generator", loop)
    faults.release()
    assert loop.join(WAIT_S) == "finished"

    rows = expect_planned_is_committed(config)
    late = [row for row in rows if row["creation_version"] == 1]
    assert {row["head_hash"] for row in late} == {read_manifest(store, 1).sha256}
    assert late
