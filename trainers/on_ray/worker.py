"""What a worker of Ray Train does: one rank of a stage."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import ray
import ray.train.torch
import torch

from schemas.config_file import parse_config
from trainers.on_ray.checkpoints import RayCheckpoints
from trainers.parts import Host
from trainers.ranks import ProcessGroupRanks
from trainers.train_stage import train_stage

if TYPE_CHECKING:
    from storage.records.run_lock import RunLock
    from trainers.publish import OnVersion

logger = logging.getLogger(__name__)


def train_on_worker(loop: dict[str, Any]) -> dict[str, Any]:
    """Train a stage on this rank.

    Args:
        loop: ``config`` as a tree, ``stage``, ``lock``, and the ``registry`` that is told about
            versions in its ``namespace``.

    Returns:
        Content of ``checkpoints/<stage>/final/final.json``.

    Raises:
        UserError: If the stage cannot be trained as it is configured.
        StageStoppedError: If the stage cannot go on, which no restart mends.
    """
    config = parse_config(loop["config"], origin="training worker")
    torch.set_num_threads(config.training.cpus_per_worker)
    lock: RunLock = loop["lock"]
    host = Host(
        lock=lock,
        ranks=ProcessGroupRanks(),
        checkpoints=RayCheckpoints(lock, loop["stage"]),
        device=ray.train.torch.get_device(),
        on_version=registry_hint(loop["registry"], namespace=loop["namespace"]),
    )
    return train_stage(config, loop["stage"], host)


def registry_hint(name: str, *, namespace: str) -> OnVersion:
    """Make a callback that tells the weight registry about a version, if there is one."""

    def tell(version: int) -> None:
        try:
            ray.get_actor(name, namespace=namespace).publish.remote(version)
        except Exception as error:  # noqa: BLE001 - a hint: whatever it meets, training goes on
            logger.info("registry_not_told name=%s version=%d: %s", name, version, error)

    return tell
