"""What a stage tells while it runs: an event every few seconds, for the terminal and status."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.events import Event

if TYPE_CHECKING:
    from sources.batches import Batch
    from storage.records.events import EventWriter

OnProgress = Callable[[dict[str, Any]], None]
"""Receives the fields of every ``trainer_progress`` event."""

_LONGEST_WAIT_S = 30.0


class Progress:
    """Collects numbers of steps and tells them every few seconds.

    Args:
        events: Where events go; None: nowhere (every rank but 0).
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        stage: str,
        *,
        steps: int,
        events: EventWriter | None = None,
        on_progress: OnProgress | None = None,
        every_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage = stage
        self._steps = steps
        self._events = events
        self._on_progress = on_progress
        self._every_s = every_s
        self._clock = clock
        self._started_s = self._told_s = clock()
        self._images = 0
        self._staleness: list[int] = []
        self._synthetic = 0
        self._rank_images = 0
        self._window: dict[str, float] = {}
        self.fields: dict[str, Any] = {}

    def add_batch(self, batch: Batch, *, current_version: int) -> None:
        """Note what a batch of this rank consists of.

        Args:
            current_version: Newest version of creation weights; a sample's staleness is how many
                versions older its labels are.
        """
        is_synthetic = np.asarray(batch.is_synthetic, dtype=bool)
        versions = np.asarray(batch.versions)[is_synthetic]
        self._staleness += (current_version - versions).tolist()
        self._synthetic += int(is_synthetic.sum())
        self._rank_images += len(is_synthetic)

    def add_step(self, *, images: int, fields: Mapping[str, Any]) -> None:
        """Note one step of ``images`` images over all ranks; tells if it is time."""
        self._images += images
        self.fields.update(fields)
        now = self._clock()
        # A long stage tells less often, so that its log stays short: once per 1 % of its age.
        wait_s = min(max(self._every_s, 0.01 * (now - self._started_s)), _LONGEST_WAIT_S)
        if now - self._told_s >= wait_s:
            self.tell()

    def tell(self) -> None:
        """Send the event now; rates are those of the steps since the event before."""
        now = self._clock()
        if self._images:
            self._window = self._close_window(now - self._told_s)
            self._told_s = now
        event = {"stage": self._stage, "steps": self._steps, **self.fields, **self._window}
        self.emit(Event.TRAINER_PROGRESS, **event)
        if self._on_progress is not None:
            self._on_progress(event)

    def _close_window(self, seconds: float) -> dict[str, float]:
        """Sum up the steps since the last event, and start counting anew."""
        window = {
            "images_per_s": self._images / max(seconds, 1e-9),
            "synthetic_fraction": self._synthetic / max(self._rank_images, 1),
            "staleness_mean": float(np.mean(self._staleness)) if self._staleness else 0.0,
            "staleness_max": max(self._staleness, default=0),
        }
        self._images = self._synthetic = self._rank_images = 0
        self._staleness = []
        return window

    def emit(self, name: str, **fields: Any) -> None:
        """Send another event at once."""
        if self._events is not None:
            self._events.emit(name, **fields)
            self._events.flush()
