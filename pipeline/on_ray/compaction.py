"""Compaction of manifests beside a generation loop, in a process of its own."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import ray

from storage.files.stores import open_store
from storage.manifests.compaction import GRACE_S, UNITS_PER_FILE, Compactor

if TYPE_CHECKING:
    from schemas.config import RunConfig

logger = logging.getLogger(__name__)


class CompactionActor:
    """A ``Compactor`` in a process of its own; a restarted one learns again from storage."""

    def __init__(
        self, store_url: str, *, last_round: int, units_per_file: int, grace_s: float
    ) -> None:
        self._compactor = Compactor(
            open_store(store_url),
            last_round=last_round,
            units_per_file=units_per_file,
            grace_s=grace_s,
        )

    def turn(self) -> tuple[int, int]:
        """Files written, files removed; on errors of the store nothing, and the next turn goes on.

        The log of the actor says what happened.
        """
        try:
            return self._compactor.turn()
        except OSError as error:
            logger.warning("compaction_waits_for_the_store: %s", error)
            return 0, 0


class Compaction:
    """Has a run compacted whenever enough units were committed; never waits for it.

    Small runs never start the actor. Losing it costs nothing but time: what it writes appears
    whole or not at all. Not safe for use by several threads.

    Args:
        config: The run's configuration; ``run.url`` must be absolute.
        units_per_file: Units that go into one compacted file.
        grace_s: How long a unit's own file stays after a compacted one has replaced it.
    """

    def __init__(
        self, config: RunConfig, *, units_per_file: int = UNITS_PER_FILE, grace_s: float = GRACE_S
    ) -> None:
        self._options = {
            "last_round": config.plan.rounds - 1 if config.plan.images == "reuse" else 0,
            "units_per_file": units_per_file,
            "grace_s": grace_s,
        }
        self._store_url = config.run.url
        self._units_per_file = units_per_file
        self._grace_s = grace_s
        self._actor: Any = None
        self._promise: Any = None
        self._asked_at_units, self._asked_at = 0, 0.0

    def look(self, units_committed: int) -> None:
        """Begin a turn if there is enough to do and none is going on."""
        if self._promise is not None and not self._has_ended():
            return
        is_full = units_committed - self._asked_at_units >= self._units_per_file
        # What a turn has replaced is removed by one that begins so much later.
        is_later = self._actor is not None and time.monotonic() - self._asked_at > self._grace_s
        if not is_full and not is_later:
            return
        self._asked_at_units, self._asked_at = units_committed, time.monotonic()
        if self._actor is None:
            remote: Any = ray.remote(CompactionActor)
            options = remote.options(num_cpus=0, max_restarts=-1)
            self._actor = options.remote(self._store_url, **self._options)
        self._promise = self._actor.turn.remote()

    def stop(self) -> None:
        """Stop the actor, wherever it is."""
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = self._promise = None

    def _has_ended(self) -> bool:
        if not ray.wait([self._promise], timeout=0)[0]:
            return False
        promise, self._promise = self._promise, None
        try:
            ray.get(promise)
        except ray.exceptions.RayError as error:
            logger.warning("compaction_was_lost: %s", str(error).strip().split("\n", 1)[0])
        return True
