"""A cluster of several nodes on this machine whose parts can be found and killed by kind."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from tests.kit.faults.cluster import HEAD_ARGUMENTS

NUM_NODES = 3
_TITLES = {
    "generator": "ray::GeneratorActor",
    "registry": "ray::WeightRegistry",
    "trainer": "ray::RayTrainWorker",
}
_GONE = (FileNotFoundError, ProcessLookupError)


class KillableCluster:
    """A head, and nodes of two CPUs each."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        for _ in range(NUM_NODES):
            self._add_node()

    @property
    def address(self) -> str:
        """Where jobs connect to."""
        return str(self._cluster.address)

    def kill(self, kind: str, draw: random.Random) -> bool:
        """Kill one of a kind on the spot; False if there is none now.

        Args:
            kind: ``node``, ``generator``, ``registry`` or ``trainer``.
            draw: Chooses which.
        """
        if kind == "node":
            node = draw.choice(sorted(self._cluster.worker_nodes, key=lambda n: n.node_id))
            self._cluster.remove_node(node, allow_graceful=False)
            self._add_node()
            return True
        pids = [pid for pid in self._workers() if _title(pid).startswith(_TITLES[kind])]
        if not pids:
            return False
        with suppress(*_GONE):
            os.kill(draw.choice(sorted(pids)), signal.SIGKILL)
        return True

    def _add_node(self) -> None:
        for is_last in (False, False, True):
            try:
                self._cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
            except Exception:  # Ray's own limit for a start, too short for a busy machine
                if is_last:
                    raise
            else:
                return

    def _workers(self) -> list[int]:
        """Processes that this cluster's raylets have started, no other cluster's."""
        nodes = self._cluster.list_all_nodes()
        raylets = {node.all_processes["raylet"][0].process.pid for node in nodes}
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if _parent(pid) in raylets]


@contextmanager
def killable_cluster() -> Iterator[KillableCluster]:
    """Start a cluster for the time of the block; from the main thread alone."""
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    cluster = Cluster(initialize_head=True, head_node_args=dict(HEAD_ARGUMENTS))
    try:
        yield KillableCluster(cluster)
    finally:
        cluster.shutdown()


def _parent(pid: int) -> int | None:
    with suppress(*_GONE):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def _title(pid: int) -> str:
    with suppress(*_GONE):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""
