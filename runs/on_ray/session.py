"""Connect a job to Ray: the cluster it was submitted to, or a local one for this machine."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from runs.checks.machine import cluster_address, wanted_cpus, wanted_gpus
from runs.state import ALL_ROLES
from schemas.errors import ConfigError
from schemas.names import namespace_of
from schemas.text import number_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from rich.console import Console

    from schemas.config import RunConfig
    from storage.records.run_lock import Role

SPARE_CPUS = 1
"""For tasks that pass through while generators and workers hold theirs."""

LEAST_OBJECT_STORE_MB = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What was connected to.

    Attributes:
        is_local: Whether Ray was started for this job on this machine.
        num_nodes: Nodes of the cluster.
        num_cpus: CPUs as Ray counts them; on a local Ray there may be fewer cores.
        num_gpus: GPUs.
    """

    is_local: bool
    num_nodes: int
    num_cpus: float
    num_gpus: float

    def __str__(self) -> str:
        """One line for the terminal."""
        where = "on this machine" if self.is_local else "a cluster"
        return (
            f"Ray: {where}, {number_of(self.num_nodes, 'node')}, {self.num_cpus:g} CPUs, "
            f"{self.num_gpus:g} GPUs"
        )


@contextmanager
def connect(
    config: RunConfig, console: Console | None = None, *, roles: Collection[Role] = ALL_ROLES
) -> Iterator[Session]:
    """Connect to Ray for the time of the ``with`` block, and say what was found.

    The cluster is ``ray.address`` of the configuration, else the one in the environment (where
    ``ray job submit`` puts the cluster that runs the job), else a Ray started on this machine.

    Args:
        roles: What the job does: it may have to wait for what this needs.

    Yields:
        What was connected to.

    Raises:
        ConfigError: If there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = cluster_address(config)
    with _keeping_sigterm():
        _init(config, address)
    try:
        found = ray.cluster_resources()
        session = Session(
            is_local=address is None,
            num_nodes=len(ray.nodes()),
            num_cpus=found.get("CPU", 0.0),
            num_gpus=found.get("GPU", 0.0),
        )
        if console is not None:
            console.print(str(session))
            for line in waiting_for(config, session, roles):
                console.print(line)
        yield session
    finally:
        ray.shutdown()


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray sets one of its own, which ends the process by itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def waiting_for(config: RunConfig, session: Session, roles: Collection[Role]) -> list[str]:
    """What a job will wait for until the cluster has grown: a line each."""
    cpus, gpus = wanted_cpus(config, roles), sum(wanted_gpus(config, roles).values())
    lines = []
    if session.num_cpus < cpus:
        lines.append(
            f"the run asks for {cpus} CPUs: it waits until the cluster has grown; lower "
            "generation.num_generators or training.num_workers if it cannot"
        )
    if session.num_gpus < gpus:
        lines.append(
            f"the run asks for {gpus:g} GPUs (training.use_gpu, generation.gpus_per_generator): it "
            "waits until nodes with GPUs have joined; set training.use_gpu=false and "
            "generation.gpus_per_generator=0 if none will"
        )
    return lines


def _init(config: RunConfig, address: str | None) -> None:
    common: dict[str, Any] = {
        "namespace": namespace_of(config.run_id),
        "log_to_driver": False,
        "logging_level": "error",
    }
    if address is None:
        store_mb = max(config.ray.object_store_mb, LEAST_OBJECT_STORE_MB)
        ray.init(
            address="local",
            # CPUs are a count of what may run at once; the threads of each are set to its own.
            num_cpus=max(os.cpu_count() or 1, wanted_cpus(config, ALL_ROLES) + SPARE_CPUS),
            include_dashboard=False,
            object_store_memory=store_mb * 2**20,
            **common,
        )
        return
    try:
        ray.init(address=address, **common)
    except ConnectionError as error:
        raise ConfigError(
            f"ray.address = {address}: no Ray cluster answers there ({error}); start it, or leave "
            "ray.address and RAY_ADDRESS empty for a Ray on this machine"
        ) from error
