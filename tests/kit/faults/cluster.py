"""A cluster of several nodes on this machine, whose nodes and processes can be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.loop.plan import make_plan
from pipeline.on_ray.coordinator import GenerationLoop
from schemas.config import RunConfig
from schemas.names import namespace_of, registry_name
from storage.files.stores import open_store
from storage.records.events import read_events
from tests.kit.small_run import open_run_source
from tests.kit.wholeness import Row, expect_whole

WAIT_S = 80.0
"""Longest wait for anything; a test's own limit is a little above it."""

FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 5,
}


HEAD_ARGUMENTS = {
    "num_cpus": 0,
    "include_dashboard": False,
    "object_store_memory": 80 * 2**20,
    "_system_config": FAST_HEALTH_CHECKS,
}


@contextmanager
def local_ray(*, num_cpus: int = 4, **options: Any) -> Iterator[None]:
    """Start a Ray of one node on this machine for the time of the block."""
    import ray

    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=100 * 2**20,
        **options,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def stopped_loops(make_loop: Callable[..., GenerationLoop]) -> Iterator[Callable[..., Any]]:
    """Start loops that are stopped at the end of the block, whatever becomes of their test."""
    loops: list[GenerationLoop] = []

    def start(config: RunConfig, *, num_generators: int = 1, **options: Any) -> GenerationLoop:
        loops.append(make_loop(config, **options))
        loops[-1].start(num_generators=num_generators)
        return loops[-1]

    try:
        yield start
    finally:
        for loop in loops:
            loop.stop(timeout_s=0)


@contextmanager
def running_cluster(*, num_nodes: int) -> Iterator[Any]:
    """Start a head without CPUs and generator nodes of one CPU each, connected to this process.

    Yields:
        A ``ray.cluster_utils.Cluster``; ``worker_nodes`` are the generator nodes.
    """
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    cluster = Cluster(initialize_head=True, head_node_args=dict(HEAD_ARGUMENTS))
    try:
        for _ in range(num_nodes):
            add_generator_node(cluster)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def add_generator_node(cluster: Any) -> Any:
    """Add a node that one generator fits on."""
    return cluster.add_node(
        num_cpus=1, labels={"ray-subcluster": "generator"}, object_store_memory=80 * 2**20
    )


def wait_until(
    condition: Callable[[], object], what: str, loop: GenerationLoop | None = None
) -> None:
    """Wait until a condition holds, at most ``WAIT_S`` seconds and until a loop fails."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {WAIT_S:g} s"
        assert loop is None or loop.state != "failed", loop.reason
        time.sleep(0.05)


def registry_of(config: RunConfig) -> Any:
    """Handle of a run's weight registry."""
    import ray

    return ray.get_actor(registry_name(), namespace=namespace_of(config.run_id))


def kill_process(pid: int) -> None:
    """Kill a process on the spot: it cleans nothing up."""
    os.kill(pid, signal.SIGKILL)


def events_of(loop: GenerationLoop, name: str) -> list[dict[str, Any]]:
    """All events of one name that a loop has told of so far, in order."""
    loop._report()
    found = read_events(open_store(loop._config.run.url))
    return [event for event in found if event["event"] == name]


def expect_planned_is_committed(config: RunConfig) -> list[Row]:
    """Fail unless what the run committed is its plan, whole; returns all rows."""
    plan = make_plan(config, open_run_source(config).shards("train"))
    return expect_whole(str(config.run.url), plan)
