"""Tell the run's event log when a driver starts, and how it ends."""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from schemas.errors import FencedError
from storage.records.events import EventWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.files.stores import RunStore
    from storage.records.run_lock import RunLock

STARTED, ENDED, FAILED, INTERRUPTED = "run_started", "run_ended", "run_failed", "run_interrupted"
RUN_EVENTS = (STARTED, ENDED, FAILED, INTERRUPTED)
FENCED = "run_fenced"
"""How an elder driver ended; the state of the run is the younger one's business."""


@contextmanager
def told(store: RunStore, *, job: str, lock: RunLock | None = None) -> Iterator[None]:
    """Write ``run_started`` now, and at the end of the block how it ended.

    A driver that is killed tells nothing: its log just falls silent.

    Args:
        store: The run.
        job: Name of the job.
        lock: The driver's hold on the run; None if it took none.

    Raises:
        BaseException: Whatever ended the block.
    """
    events = EventWriter(store, "run", epoch=lock.epoch if lock else 0)
    roles = {"roles": list(lock.roles)} if lock else {}
    _tell(events, STARTED, job=job, host=platform.node(), pid=os.getpid(), **roles)
    try:
        yield
    except BaseException as error:
        kind, reason = type(error).__name__, str(error)
        with suppress(OSError):  # the store may be what failed; its error is the one to show
            _tell(events, _event_of(error), job=job, kind=kind, reason=reason)
        raise
    _tell(events, ENDED, job=job)


def _event_of(error: BaseException) -> str:
    if isinstance(error, FencedError):
        return FENCED
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


def _tell(events: EventWriter, name: str, **fields: Any) -> None:
    events.emit(name, **fields)
    events.flush()
