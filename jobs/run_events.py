"""Tell the run's event log when a driver starts, and how it ends."""

from __future__ import annotations

import platform
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from storage.events import EventWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.filesystem import RunStore

STARTED, ENDED, FAILED, INTERRUPTED = "run_started", "run_ended", "run_failed", "run_interrupted"
RUN_EVENTS = (STARTED, ENDED, FAILED, INTERRUPTED)


@contextmanager
def told(store: RunStore, *, job: str) -> Iterator[None]:
    """Write ``run_started`` now, and at the end of the block how it ended.

    A driver that is killed tells nothing: its log just falls silent.

    Args:
        store: The run.
        job: Name of the job.

    Raises:
        BaseException: Whatever ended the block.
    """
    events = EventWriter(store, "run")
    _tell(events, STARTED, job=job, host=platform.node())
    try:
        yield
    except BaseException as error:
        is_interrupted = isinstance(error, KeyboardInterrupt)
        kind, reason = type(error).__name__, str(error)
        with suppress(OSError):  # the store may be what failed; its error is the one to show
            _tell(
                events, INTERRUPTED if is_interrupted else FAILED, job=job, kind=kind, reason=reason
            )
        raise
    _tell(events, ENDED, job=job)


def _tell(events: EventWriter, name: str, **fields: str) -> None:
    events.emit(name, **fields)
    events.flush()
