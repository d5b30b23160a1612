"""The run's event log: JSON lines, one file for each flush of each writer."""

from __future__ import annotations

import json
import math
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from schemas.errors import AlreadyCommittedError
from schemas.run_layout import EVENTS_DIR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.filesystem import RunStore

_SUFFIX = ".jsonl"


class EventWriter:
    """Collects events of one process and writes them in segments.

    A segment is ``events/<writer>.<number>.jsonl``, written whole and never again, so it needs no
    appending and any number of processes may write. Safe to use from several threads.
    """

    def __init__(self, store: RunStore, writer: str, *, flush_every: int = 256) -> None:
        """Start a log.

        Args:
            store: The run directory.
            writer: Name of the process within the run, without dots and slashes; a restarted
                process may use it again.
            flush_every: Events that are kept at most before a segment is written.

        Raises:
            ValueError: If the name does not fit.
        """
        if not writer or any(sign in writer for sign in "./\\"):
            raise ValueError(f"writer {writer!r}: wanted a name without dots and slashes")
        self._store = store
        self._writer = writer
        self._flush_every = flush_every
        self._lines: list[str] = []
        self._next: int | None = None
        self._lock = threading.Lock()

    def emit(self, name: str, /, **fields: Any) -> None:
        """Add an event; ``fields`` are JSON values, others are written as text, NaN as null."""
        event = {"time": _now(), "writer": self._writer, "event": name}
        clean = {field: _json_value(value) for field, value in fields.items()}
        line = json.dumps({**clean, **event}, default=str)
        with self._lock:
            self._lines.append(line)
            if len(self._lines) >= self._flush_every:
                self._write_segment()

    def flush(self) -> None:
        """Write what was collected; nothing is written if there is nothing."""
        with self._lock:
            if self._lines:
                self._write_segment()

    def _write_segment(self) -> None:
        data = "".join(f"{line}\n" for line in self._lines).encode()
        if self._next is None:
            self._next = _count_after(self._store, self._writer)
        while True:
            path = f"{EVENTS_DIR}/{self._writer}.{self._next:06d}{_SUFFIX}"
            self._next += 1
            try:
                self._store.put_if_absent(path, data)
            except AlreadyCommittedError:
                # Ours, if the store answered a repeated request whose first try had succeeded;
                # else another process with our name wrote it, and the next number is free.
                if self._store.read_bytes(path) != data:
                    continue
            self._lines.clear()
            return


def read_events(store: RunStore) -> Iterator[dict[str, Any]]:
    """Yield all flushed events of all writers, ordered by time.

    Every event holds ``time`` (ISO 8601, UTC), ``writer`` and ``event`` (its name). Lines that are
    not JSON objects are skipped: they come from copies of a run that were cut off.
    """
    events: list[dict[str, Any]] = []
    for name in store.list_dir(EVENTS_DIR):
        if name.endswith(_SUFFIX):
            lines = store.read_bytes(f"{EVENTS_DIR}/{name}").decode(errors="replace").splitlines()
            events.extend(event for line in lines if (event := _parse(line)) is not None)
    yield from sorted(events, key=lambda event: str(event["time"]))


def _parse(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "time" in event else None


def _json_value(value: Any) -> Any:
    # JSON has no NaN; readers such as DuckDB refuse the word.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _count_after(store: RunStore, writer: str) -> int:
    parts = (name.split(".") for name in store.list_dir(EVENTS_DIR))
    numbers = [int(p[1]) for p in parts if len(p) == 3 and p[0] == writer and p[1].isdigit()]
    return max(numbers, default=-1) + 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
