"""Jobs submitted to a cluster that outlives them: killed, sent twice, sent again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.cluster_utils import Cluster

from tests.kit.job_process import (
    ROOT,
    Ended,
    ProcessTree,
    environment,
    finish_job,
    ray_folder,
    running_job,
)

NUM_CPUS = 8
"""As Ray counts them: room for two drivers' parts side by side, whatever the machine has."""


_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


class Submissions:
    """A cluster, and jobs that connect to it."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self._folder = folder

    @contextmanager
    def running(self, job: str, arguments: list[str], *, log: Path) -> Iterator[ProcessTree]:
        """Submit a job; it is ended with the block."""
        with running_job(job, arguments, log=log, environment=self._environment()) as tree:
            yield tree

    def finish(self, job: str, arguments: list[str], *, log: Path) -> Ended:
        """Submit a job and wait for its end."""
        return finish_job(job, arguments, log=log, environment=self._environment())

    def _environment(self) -> dict[str, str]:
        # A Ray that was started in this process before has switched its clusters to tokens.
        mode = {name: os.environ[name] for name in _AUTHENTICATION if name in os.environ}
        return environment(self._folder, RAY_ADDRESS=self.address, **mode)


@contextmanager
def submissions() -> Iterator[Submissions]:
    """Start a cluster of one node for the time of the block."""
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": NUM_CPUS,
            "include_dashboard": False,
            "object_store_memory": 100 * 2**20,
        },
    )
    try:
        with ray_folder() as folder:
            yield Submissions(cluster.address, folder)
    finally:
        cluster.shutdown()


def expect_verified(run: str) -> None:
    """``jobs/verify.py`` finds nothing wrong."""
    done = subprocess.run(
        [sys.executable, "jobs/verify.py", run],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def committed(run: Path) -> dict[str, str]:
    """Digest of everything in a run that counts: units, shards, weights and ends of stages."""
    found = [path for part in ("manifest", "shards", "weights") for path in (run / part).rglob("*")]
    found += [run / "results.json", *run.glob("checkpoints/*/final/*")]
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file()
    }
