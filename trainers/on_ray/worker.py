"""What a worker of Ray Train does: one rank of a stage."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import ray
import ray.train.torch
import torch

from schemas.names import is_registry, namespace_of
from trainers.on_ray.checkpoints import RayCheckpoints
from trainers.parts import Environment
from trainers.ranks import ProcessGroupRanks
from trainers.train_stage import train_stage

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from schemas.weights import Series
    from storage.records.run_lock import RunLock
    from trainers.publish import OnVersion

logger = logging.getLogger(__name__)


def train_on_worker(loop: dict[str, Any]) -> dict[str, Any]:
    """Train a stage on this rank.

    Args:
        loop: ``config``, ``stage`` and ``lock``.

    Returns:
        Content of ``checkpoints/<stage>/final/final.json``.

    Raises:
        UserError: If the stage cannot be trained as it is configured.
        StageStoppedError: If the stage cannot go on, which no restart mends.
    """
    config: RunConfig = loop["config"]
    torch.set_num_threads(config.training.cpus_per_worker)
    lock: RunLock = loop["lock"]
    environment = Environment(
        lock=lock,
        ranks=ProcessGroupRanks(),
        checkpoints=RayCheckpoints(lock, loop["stage"]),
        device=ray.train.torch.get_device(),
        on_version=registry_hint(namespace_of(config.run_id)),
    )
    return train_stage(config, loop["stage"], environment)


def registry_hint(namespace: str, series: Series = "creation") -> OnVersion:
    """Make a callback that gives a version to the weight registries of a run, if it has any.

    Each driver that generates has its own; which one the generators of now ask does not matter.
    """

    def give(version: int) -> None:
        try:
            for actor in ray.util.list_named_actors(all_namespaces=True):
                if actor["namespace"] == namespace and is_registry(actor["name"]):
                    registry = ray.get_actor(actor["name"], namespace=namespace)
                    registry.publish.remote(version, series)
        except Exception as error:  # noqa: BLE001 - a hint: whatever it meets, training goes on
            logger.info("registry_not_reached version=%d: %s", version, error)

    return give
