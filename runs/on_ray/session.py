"""Connect a job to Ray: the cluster it was submitted to, or a local one for this machine."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from schemas.errors import ConfigError
from schemas.names import namespace_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from schemas.config import RunConfig

SPARE_CPUS = 1
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
            f"Ray: {where}, {self.num_nodes} node(s), {self.num_cpus:g} CPUs, "
            f"{self.num_gpus:g} GPUs"
        )


@contextmanager
def connect(config: RunConfig, console: Console | None = None) -> Iterator[Session]:
    """Connect to Ray for the time of the ``with`` block, and say what was found.

    The cluster is ``ray.address`` of the configuration, else the one in the environment (where
    ``ray job submit`` puts the cluster that runs the job), else a Ray started on this machine.

    Yields:
        What was connected to.

    Raises:
        ConfigError: If there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = config.ray.address or os.environ.get("RAY_ADDRESS") or None
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
            if session.num_cpus < wanted_cpus(config):
                console.print(
                    f"the run asks for {wanted_cpus(config)} CPUs: it waits until the cluster has "
                    "grown; lower generation.num_generators or training.num_workers if it cannot"
                )
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


def wanted_cpus(config: RunConfig) -> int:
    """CPUs that generators and workers hold together, and one for what passes through."""
    generation, training = config.generation, config.training
    return (
        generation.num_generators * generation.cpus_per_generator
        + training.num_workers * training.cpus_per_worker
        + SPARE_CPUS
    )


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
            num_cpus=max(os.cpu_count() or 1, wanted_cpus(config)),
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
