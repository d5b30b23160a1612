"""The weight registry: an actor that holds the newest creation weights in shared memory."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import ray

from schemas.errors import DamagedShardError
from schemas.names import namespace_of, registry_name
from storage.files.stores import open_store
from storage.records.weights import WeightsWatch

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from schemas.weights import WeightsManifest

logger = logging.getLogger(__name__)

POLL_S = 5.0
KEPT_VERSIONS = 2


class WeightRegistry:
    """Serves the newest committed version; storage is the truth, this is its cache.

    It puts the bytes into the object store itself: a reference made by a trainer's worker would
    die with that worker. A restarted registry comes back empty and fills itself from storage.

    Args:
        poll_s: Least time between two looks into storage when nobody publishes.
    """

    def __init__(self, store_url: str, poll_s: float = POLL_S) -> None:
        self._watch = WeightsWatch(open_store(store_url))
        self._poll_s = poll_s
        self._looked_at = float("-inf")
        self._held: dict[int, tuple[WeightsManifest, Any]] = {}
        self._look()

    def publish(self, version: int) -> bool:
        """Take the hint that a version is committed.

        Returns:
            Whether the registry now holds it, or a newer one.
        """
        if version not in self._held:
            self._look()
        return bool(self._held) and max(self._held) >= version

    def latest(self) -> tuple[WeightsManifest, list[Any]] | None:
        """Manifest of the newest version, and a reference to its bytes.

        The bytes were checked when they came from storage; the reference is in a list, so that
        Ray passes it on. None if no version is committed.
        """
        if time.monotonic() - self._looked_at > self._poll_s:
            self._look()
        if not self._held:
            return None
        manifest, reference = self._held[max(self._held)]
        return manifest, [reference]

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        try:
            newer = self._watch.newer_than(max(self._held, default=None))
        except (OSError, DamagedShardError) as error:
            logger.warning("registry_kept_its_version: %s", error)
            return
        if newer is None:
            return
        manifest, data = newer
        self._held[manifest.version] = (manifest, ray.put(data))
        for version in sorted(self._held)[:-KEPT_VERSIONS]:
            del self._held[version]


def start_registry(config: RunConfig, *, epoch: int = 0) -> Any:
    """Start the registry of a run's driver, or find the running one, and return its handle."""
    remote: Any = ray.remote(WeightRegistry)
    actor = remote.options(
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        name=registry_name(epoch),
        namespace=namespace_of(config.run_id),
        get_if_exists=True,
    )
    return actor.remote(config.run.url)
