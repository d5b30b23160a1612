"""The run's event log: JSON lines, a file for each flush, later one for many flushes."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from schemas.errors import AlreadyCommittedError
from schemas.run_layout import EVENTS_DIR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

ROLLED_SEGMENTS = 256
"""So many segments of a process are put together."""

_SUFFIX = ".jsonl"
_ROLLED_BYTES = 8 * 2**20
_MOST_KEPT = 10_000
_ASK_AGAIN_S = 30.0


class EventWriter:
    """Collects events of one process and writes them in segments.

    A segment is ``events/<writer>.<number>.jsonl``, written whole and never again, so it needs no
    appending and any number of processes may write. So that the folder stays short in a run of
    days, a writer puts what it wrote last into one file, ``<writer>.<first>-<last>.jsonl``, and
    then removes the segments. Safe to use from several threads.

    A store that fails stops nobody: events stay in memory, the newest ten thousand of them, and go
    into a later segment.
    """

    def __init__(
        self, store: RunStore, writer: str, *, epoch: int = 0, flush_every: int = 256
    ) -> None:
        """Start a log.

        Args:
            writer: Name of the process within the run, without dots and slashes; a restarted
                process may use it again.
            epoch: Of the driver that the process belongs to, written with every event; 0: none.
            flush_every: Events that are kept at most before a segment is written.

        Raises:
            ValueError: If the name does not fit.
        """
        if not writer or any(sign in writer for sign in "./\\"):
            raise ValueError(f"writer {writer!r}: wanted a name without dots and slashes")
        self._store = store
        self._writer = writer
        self._epoch = epoch
        self._flush_every = flush_every
        self._lines: list[str] = []
        self._single: dict[int, bytes] = {}
        self._next: int | None = None
        self._ask_at = float("-inf")
        self._lock = threading.Lock()

    def emit(self, name: str, /, **fields: Any) -> None:
        """Add an event; ``fields`` are JSON values, others are written as text, NaN as null."""
        event: dict[str, Any] = {"time": _now(), "writer": self._writer, "event": name}
        if self._epoch:
            event["epoch"] = self._epoch
        clean = {field: _json_value(value) for field, value in fields.items()}
        line = json.dumps({**clean, **event}, default=str)
        with self._lock:
            self._lines.append(line)
            if len(self._lines) >= self._flush_every:
                self._try_to_write()

    def flush(self) -> None:
        """Write what was collected; nothing is written if there is nothing."""
        with self._lock:
            if self._lines:
                self._try_to_write()

    def _try_to_write(self) -> None:
        if time.monotonic() < self._ask_at:
            return
        try:
            self._write_segment()
            if len(self._single) >= ROLLED_SEGMENTS or _size(self._single) >= _ROLLED_BYTES:
                self._roll()
        except OSError as error:
            logger.warning("events_wait number=%d error=%s", len(self._lines), error)
            self._ask_at = time.monotonic() + _ASK_AGAIN_S
            del self._lines[:-_MOST_KEPT]

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
            self._single[self._next - 1] = data
            self._lines.clear()
            return

    def _roll(self) -> None:
        """Put the segments of this process together; killed in here, it leaves some lines twice."""
        numbers = sorted(self._single)
        name = f"{self._writer}.{numbers[0]:06d}-{numbers[-1]:06d}{_SUFFIX}"
        data = b"".join(self._single[number] for number in numbers)
        with suppress(AlreadyCommittedError):  # it is ours: the numbers are nobody else's
            self._store.put_if_absent(f"{EVENTS_DIR}/{name}", data)
        for number in numbers:
            self._store.remove_file(f"{EVENTS_DIR}/{self._writer}.{number:06d}{_SUFFIX}")
            del self._single[number]


def read_events(store: RunStore) -> Iterator[dict[str, Any]]:
    """Yield all flushed events of all writers, in the order in which they happened.

    Every event holds ``time`` (ISO 8601, UTC), ``writer`` and ``event`` (its name), and ``epoch``
    if its driver took one. Clocks of different machines differ, so time orders only what nothing
    else does: a driver's events come after those of the drivers before it, and a writer's in the
    order in which it wrote them. Lines that are no events are skipped: they come from copies of a
    run that were cut off. A line that lies in two files is yielded once.
    """
    events: list[tuple[int, str, dict[str, Any]]] = []
    latest: dict[tuple[int, str], str] = {}
    for line in _read_lines(store):
        event = parse_event(line)
        if event is not None:
            epoch = event.get("epoch", 0)
            log = (epoch if isinstance(epoch, int) else 0, str(event.get("writer")))
            # A clock that was set back does not take a writer's later events back.
            latest[log] = max(latest.get(log, ""), str(event["time"]))
            events.append((log[0], latest[log], event))
    yield from (event for _, _, event in sorted(events, key=lambda found: found[:2]))


def _read_lines(store: RunStore) -> Iterable[str]:
    for is_last_look in (False, False, True):
        names = [name for name in store.list_dir(EVENTS_DIR) if name.endswith(_SUFFIX)]
        lines: dict[str, None] = {}
        try:
            for name in sorted(names, key=_writing_order):
                text = store.read_bytes(f"{EVENTS_DIR}/{name}").decode(errors="replace")
                lines.update(dict.fromkeys(text.splitlines()))
        except FileNotFoundError:
            # A writer has put it together with others since the folder was listed.
            if is_last_look:
                raise
        else:
            return lines
    return ()


def _writing_order(name: str) -> tuple[str, int, str]:
    writer, _, numbers = name.removesuffix(_SUFFIX).rpartition(".")
    first = numbers.partition("-")[0]
    return writer, int(first) if first.isdigit() else -1, name


def parse_event(line: str) -> dict[str, Any] | None:
    """Read one line of a log; None if it is no event."""
    try:
        event = json.loads(line)
        is_event = isinstance(event["event"], str) and isinstance(event["writer"], str)
        has_time = datetime.fromisoformat(event["time"]).tzinfo is not None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return event if is_event and has_time else None


def _json_value(value: Any) -> Any:
    # JSON has no NaN; readers such as DuckDB refuse the word.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _count_after(store: RunStore, writer: str) -> int:
    parts = (name.split(".") for name in store.list_dir(EVENTS_DIR))
    lasts = [p[1].rpartition("-")[2] for p in parts if len(p) == 3 and p[0] == writer]
    return max((int(last) for last in lasts if last.isdigit()), default=-1) + 1


def _size(segments: dict[int, bytes]) -> int:
    return sum(map(len, segments.values()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
