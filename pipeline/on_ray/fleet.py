"""Keeps a run's generators in line with the machines there are and with what the user asks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import ray

from pipeline.on_ray.drain import draining_nodes
from schemas.errors import ConfigError
from schemas.events import Event
from storage.records.steering import Steering, read_steering

if TYPE_CHECKING:
    from pipeline.on_ray.workers import WorkerPool
    from storage.files.stores import RunStore
    from storage.records.events import EventWriter

logger = logging.getLogger(__name__)


class Fleet:
    """Looks at draining nodes and at the run's wishes, and starts or drains generators.

    Not safe for use by several threads.
    """

    def __init__(self, pool: WorkerPool, store: RunStore, events: EventWriter) -> None:
        self._pool = pool
        self._store = store
        self._events = events
        self._wishes = Steering()
        self._draining: frozenset[str] = frozenset()

    @property
    def is_paused(self) -> bool:
        """Whether the user wants no unit to be handed out."""
        return self._wishes.is_paused

    def look(self) -> None:
        """Do what has become necessary; on errors everything stays as it is."""
        self._look_at_nodes()
        self._look_at_wishes()

    def _look_at_nodes(self) -> None:
        try:
            remaining_s = draining_nodes()
        except ray.exceptions.RayError as error:
            logger.warning("draining_nodes_not_known: %s", error)
            return
        for node in remaining_s.keys() - self._draining:
            self._events.emit(Event.NODE_DRAINING, node=node, remaining_s=remaining_s[node])
        self._draining = frozenset(remaining_s)
        for name in self._pool.drain(remaining_s):
            self._events.emit(Event.GENERATOR_DRAINING, generator=name)

    def _look_at_wishes(self) -> None:
        try:
            wishes = read_steering(self._store)
        except (OSError, ConfigError) as error:
            logger.warning("steering_kept_as_it_was: %s", error)
            return
        if wishes.is_paused != self._wishes.is_paused:
            changed = Event.GENERATION_PAUSED if wishes.is_paused else Event.GENERATION_GOES_ON
            self._events.emit(changed)
        self._wishes = wishes
        if wishes.num_generators is not None:
            self._scale_to(wishes.num_generators)

    def _scale_to(self, wanted: int) -> None:
        while self._pool.num_staying < wanted:
            self._events.emit(Event.GENERATOR_STARTED, generator=self._pool.add())
        while self._pool.num_staying > wanted:
            self._events.emit(Event.GENERATOR_LEAVING, generator=self._pool.retire())
