"""Weights on their way to the generators, written in the background."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from perception.state_file import keys_digest, state_to_bytes
from schemas.digest import sha256_of
from schemas.errors import AlreadyCommittedError, RunFailedError
from storage.records.run_lock import RunLock
from storage.records.weights import latest_version, publish_weights, read_manifest
from trainers.learner import Learner, copy_weights_

if TYPE_CHECKING:
    from torch import nn

    from schemas.weights import Series, WeightsManifest
    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_MOST_SKIPPED = 2

OnVersion = Callable[[int], None]
"""Called after a version is committed; only a hint, so it must not raise."""


class WeightsPublisher:
    """Publishes snapshots of the creation weights, one at a time, in a thread of its own.

    The caller's thread only copies tensors; serialising and writing happen in the background. A
    version is always further trained than the newest one in the store, so a stage that resumes from
    an older checkpoint stays silent until it is ahead again.

    Args:
        base_model_hash: The frozen backbone that the weights belong to.
        ema_decay: α of Eq. 8, for the record.
        lock: The driver's hold on the run, looked at before each version; None if it took none.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        base_model_hash: str,
        ema_decay: float,
        stage: str,
        series: Series = "creation",
        on_version: OnVersion | None = None,
        lock: RunLock | None = None,
    ) -> None:
        self._store = store
        self._series: Series = series
        self._base_model_hash = base_model_hash
        self._ema_decay = ema_decay
        self._stage = stage
        self._on_version = on_version
        self._lock = lock or RunLock(store=store)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish")
        self._in_flight: Future[WeightsManifest | None] | None = None
        self._snapshot: nn.Module | None = None
        self._skipped = 0
        self.newest: WeightsManifest | None = newest_manifest(store, series=series)

    def start(self, learner: Learner, *, is_last: bool = False) -> bool:
        """Copy the creation weights and publish the copy in the background.

        Args:
            learner: Its creation weights, step and seen images are published.
            is_last: Whether the stage ends with them: then they are published unless the newest
                version has the same bytes.

        Returns:
            False if the version before is still on its way: nothing was done, ask again later.

        Raises:
            RunFailedError: If the version before could not be written, or a younger driver holds
                the run.
        """
        if not self.poll():
            return False
        if self._snapshot is None:
            self._snapshot = copy.deepcopy(learner.creation)
        copy_weights_(self._snapshot, learner.creation)
        self._in_flight = self._thread.submit(
            self._publish, self._snapshot, learner.step, learner.seen_images, is_last
        )
        return True

    def poll(self) -> bool:
        """Take note of a finished version; True if none is on its way any more.

        A version that the store did not take is passed over: the next one holds more.

        Raises:
            RunFailedError: If three in a row could not be written, or a younger driver holds the
                run.
        """
        if self._in_flight is not None and not self._in_flight.done():
            return False
        self._collect(timeout_s=0.0, most_skipped=_MOST_SKIPPED)
        return True

    def finish(self, *, timeout_s: float = 600.0) -> WeightsManifest | None:
        """Wait for the version on its way; returns the newest one.

        Raises:
            RunFailedError: If it could not be written in time.
        """
        self._collect(timeout_s=timeout_s)
        return self.newest

    def close(self) -> None:
        """End the thread; a version on its way is still written."""
        self._thread.shutdown(wait=True)

    def _collect(self, *, timeout_s: float, most_skipped: int = 0) -> None:
        if self._in_flight is None:
            return
        future, self._in_flight = self._in_flight, None
        try:
            manifest = future.result(timeout=timeout_s)
        except (OSError, TimeoutError) as error:
            self._skipped += 1
            if self._skipped <= most_skipped:
                logger.warning("version_is_passed_over stage=%s error=%s", self._stage, error)
                return
            raise RunFailedError(
                f"wanted to publish weights to {self._store.url}, found {error!r} after "
                f"{_ATTEMPTS} attempts; mend the storage and start the same command again"
            ) from error
        self._skipped = 0
        self.newest = manifest or self.newest

    def _publish(
        self,
        snapshot: nn.Module,
        step: int,
        seen_images: int,
        is_last: bool,  # noqa: FBT001 - given by the thread
    ) -> WeightsManifest | None:
        data, keys = state_to_bytes(snapshot), keys_digest(snapshot)
        sha256 = sha256_of(data)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._publish_once(
                    data, sha256, keys, step=step, seen_images=seen_images, is_last=is_last
                )
            except (OSError, AlreadyCommittedError) as error:
                logger.warning("publish_retry", extra={"attempt": attempt, "error": repr(error)})
                last = error
        raise OSError(f"publishing failed: {last!r}") from last

    def _publish_once(
        self, data: bytes, sha256: str, keys: str, *, step: int, seen_images: int, is_last: bool
    ) -> WeightsManifest | None:
        self._lock.expect_held()
        newest = newest_manifest(self._store, series=self._series)
        if newest is not None and newest.stage == self._stage:
            is_same = newest.step == step and newest.sha256 == sha256
            if is_same or newest.step > step or (newest.step == step and not is_last):
                return None
        manifest = publish_weights(
            self._store,
            data,
            series=self._series,
            sha256=sha256,
            version=0 if newest is None else newest.version + 1,
            step=step,
            seen_images=seen_images,
            ema_decay=self._ema_decay,
            base_model_hash=self._base_model_hash,
            keys_hash=keys,
            stage=self._stage,
            parent=-1 if newest is None else newest.version,
        )
        if self._on_version is not None:
            self._on_version(manifest.version)
        return manifest


def publish_first(
    store: RunStore,
    module: nn.Module,
    *,
    stage: str,
    base_model_hash: str,
    ema_decay: float,
    series: Series = "creation",
) -> WeightsManifest:
    """Publish version 0 of a series; a version 0 that is committed already stands.

    Args:
        module: With the weights at the end of the stage: θ_W, or a creator's.
        base_model_hash: The frozen backbone that they belong to.
        ema_decay: α of Eq. 8, for the record.
    """
    if latest_version(store, series=series) is not None:
        return read_manifest(store, 0, series=series)
    try:
        return publish_weights(
            store,
            state_to_bytes(module),
            series=series,
            version=0,
            step=0,
            seen_images=0,
            ema_decay=ema_decay,
            base_model_hash=base_model_hash,
            keys_hash=keys_digest(module),
            stage=stage,
            parent=-1,
        )
    except AlreadyCommittedError:
        # Another driver's trainer came first in the same moment.
        return read_manifest(store, 0, series=series)


def newest_manifest(store: RunStore, *, series: Series = "creation") -> WeightsManifest | None:
    """Read the manifest of the newest committed version; None before the first."""
    version = latest_version(store, series=series)
    return None if version is None else read_manifest(store, version, series=series)
