"""Follow the event log of a running job without reading anything twice."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from schemas.run_layout import EVENTS_DIR
from storage.records.events import parse_event

if TYPE_CHECKING:
    from storage.files.stores import RunStore


logger = logging.getLogger(__name__)


class EventTail:
    """Newest event of one name; each log segment is read once.

    A store that fails hides what is new for a while, and stops nobody.
    """

    def __init__(self, store: RunStore, *, event: str) -> None:
        """Follow one kind of event from now on; older segments are left unread.

        Args:
            store: The run.
            event: Name of the events to follow.
        """
        self._store = store
        self._event = event
        self._read: set[str] = set(store.list_dir(EVENTS_DIR))
        self._newest: dict[str, Any] | None = None

    def newest(self) -> dict[str, Any] | None:
        """The latest such event since the tail was made; None before the first."""
        try:
            self._look()
        except OSError as error:
            logger.warning("events_not_read error=%s", error)
        return self._newest

    def _look(self) -> None:
        names = set(self._store.list_dir(EVENTS_DIR))
        self._read &= names
        for name in sorted(names - self._read):
            text = self._store.read_bytes(f"{EVENTS_DIR}/{name}").decode(errors="replace")
            self._read.add(name)
            for event in filter(None, map(parse_event, text.splitlines())):
                self._keep(event)

    def _keep(self, found: dict[str, Any]) -> None:
        if found["event"] != self._event:
            return
        if self._newest is None or found["time"] >= self._newest["time"]:
            self._newest = found
