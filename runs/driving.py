"""What every command does that works on a run: take it, log start and end, stop when it is taken.

The run's lock (:mod:`storage.records.run_lock`) says whether a younger driver has come. A thread
reads it every two seconds and interrupts the main thread, as Ctrl-C would: so the elder ends the
same, tested way, wherever it is, and its generators and trainers with it.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from schemas.errors import FencedError, RunFailedError
from schemas.events import Event
from storage.records.events import EventWriter
from storage.records.run_lock import fenced_message, take_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from storage.files.stores import RunStore
    from storage.records.run_lock import Driver, Role, RunLock

logger = logging.getLogger(__name__)

LOOK_S = 2.0
_SIGNAL = signal.SIGUSR1


@contextmanager
def driving(store: RunStore, *, job: str, roles: Sequence[Role]) -> Iterator[RunLock]:
    """Be the run's driver for the time of the block.

    Args:
        job: Name of the job, for the event log and the lock.
        roles: What the job does; an older driver with one of these roles is fenced.

    Yields:
        The lock; what commits anything asks it before.

    Raises:
        FencedError: If a younger driver took the run over.
        OSError: If the store cannot be reached.
    """
    lock = take_run(store, job=job, roles=roles)
    with logged(store, job=job, lock=lock), stopped_when_fenced(lock):
        yield lock


@contextmanager
def logged(store: RunStore, *, job: str, lock: RunLock | None = None) -> Iterator[None]:
    """Write ``run_started`` now, and at the end of the block how it ended.

    A driver that is killed writes nothing: its log ends.

    Args:
        lock: The driver's hold on the run; None if it took none.

    Raises:
        BaseException: Whatever ended the block.
    """
    events = EventWriter(store, "run", epoch=lock.epoch if lock else 0)

    def log(event: Event, **fields: Any) -> None:
        events.emit(event, job=job, **fields)
        events.flush()

    roles = {"roles": list(lock.roles)} if lock else {}
    log(Event.RUN_STARTED, host=platform.node(), pid=os.getpid(), **roles)
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # the store may be what failed; its error is the one to show
            log(_event_of(error), kind=type(error).__name__, reason=str(error))
        raise
    log(Event.RUN_ENDED)


def _event_of(error: BaseException) -> Event:
    if isinstance(error, FencedError):
        return Event.RUN_FENCED
    return Event.RUN_INTERRUPTED if isinstance(error, KeyboardInterrupt) else Event.RUN_FAILED


@contextmanager
def stopped_when_fenced(lock: RunLock, *, look_s: float = LOOK_S) -> Iterator[None]:
    """Interrupt the block as soon as a younger driver holds the run.

    Outside of the main thread nothing is interrupted: there the block only ends by its own looks.

    Raises:
        FencedError: Instead of what ended the block, if a younger driver holds the run.
        KeyboardInterrupt: On Ctrl-C.
        RunFailedError: Whatever ended the block.
    """
    watch = _Watch(lock, look_s)
    is_main = threading.current_thread() is threading.main_thread()
    before: Any = signal.signal(_SIGNAL, watch.interrupt) if is_main else None
    watch.start(is_interrupting=is_main)
    try:
        yield
        watch.stop()
    except (KeyboardInterrupt, RunFailedError) as error:
        watch.stop()
        if isinstance(error, FencedError) or (successor := watch.look()) is None:
            raise
        raise FencedError(fenced_message(lock, successor)) from error
    finally:
        watch.stop()
        if is_main:
            signal.signal(_SIGNAL, before)


class _Watch:
    """Looks for a successor in a thread of its own."""

    def __init__(self, lock: RunLock, look_s: float) -> None:
        self._lock = lock
        self._look_s = look_s
        self._stopping = threading.Event()
        self._successor: Driver | None = None

    def start(self, *, is_interrupting: bool) -> None:
        threading.Thread(
            target=self._run, args=(is_interrupting,), name="run-lock", daemon=True
        ).start()

    def stop(self) -> None:
        self._stopping.set()

    def interrupt(self, _number: int, _frame: Any) -> None:
        """Handle the signal, in the main thread.

        Raises:
            KeyboardInterrupt: Unless the block is over.
        """
        if not self._stopping.is_set():
            raise KeyboardInterrupt

    def look(self) -> Driver | None:
        """The successor, if there is one and the store can be reached."""
        try:
            self._successor = self._successor or self._lock.successor()
        except OSError as error:
            # A store that cannot be reached takes no commits either: the next look will tell.
            logger.warning("run_lock_not_read: %s", error)
        return self._successor

    def _run(self, is_interrupting: bool) -> None:  # noqa: FBT001 - given by the thread
        while not self._stopping.wait(self._look_s):
            if self.look() is None:
                continue
            if is_interrupting:
                signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
            return
