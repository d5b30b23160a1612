"""The weight registry: an actor that holds a run's newest weights in shared memory."""

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
    from schemas.weights import Series, WeightsManifest
    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

POLL_S = 5.0
KEPT_VERSIONS = 2


class WeightRegistry:
    """Serves the newest committed version of each series; storage is the truth, this its cache.

    A restarted registry comes back empty and fills itself from storage. A series is looked for once
    somebody asks for it: most runs have no creator that learns.

    Args:
        poll_s: Least time between two looks into storage when nobody publishes.
    """

    def __init__(self, store_url: str, poll_s: float = POLL_S) -> None:
        self._store = open_store(store_url)
        self._poll_s = poll_s
        self._caches: dict[Series, _NewestVersions] = {}
        self._cache_of("creation")

    def publish(self, version: int, series: Series = "creation") -> bool:
        """Take the hint that a version is committed.

        Returns:
            Whether the registry now holds it, or a newer one.
        """
        held = self._cache_of(series)
        if version not in held.versions:
            held.look()
        return max(held.versions, default=-1) >= version

    def latest(self, series: Series = "creation") -> tuple[WeightsManifest, list[Any]] | None:
        """Manifest of the newest version, and a reference to its bytes.

        The bytes were checked when they came from storage; the reference is in a list, so that
        Ray passes it on. None if no version is committed.
        """
        held = self._cache_of(series)
        if time.monotonic() - held.looked_at > self._poll_s:
            held.look()
        if not held.versions:
            return None
        manifest, reference = held.versions[max(held.versions)]
        return manifest, [reference]

    def _cache_of(self, series: Series) -> _NewestVersions:
        if series not in self._caches:
            self._caches[series] = _NewestVersions(self._store, series)
            self._caches[series].look()
        return self._caches[series]


class _NewestVersions:
    """The newest versions of one series.

    It puts the bytes into the object store itself: a reference made by a trainer's worker would
    die with that worker.
    """

    def __init__(self, store: RunStore, series: Series) -> None:
        self._watch = WeightsWatch(store, series=series)
        self.looked_at = float("-inf")
        self.versions: dict[int, tuple[WeightsManifest, Any]] = {}

    def look(self) -> None:
        """Take what is newer in storage."""
        self.looked_at = time.monotonic()
        try:
            newer = self._watch.newer_than(max(self.versions, default=None))
        except (OSError, DamagedShardError) as error:
            logger.warning("registry_kept_its_version: %s", error)
            return
        if newer is None:
            return
        manifest, data = newer
        self.versions[manifest.version] = (manifest, ray.put(data))
        for version in sorted(self.versions)[:-KEPT_VERSIONS]:
            del self.versions[version]


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
