"""What every command does that works on a run: take it, log start and end, stop when told to.

The run's lock (:mod:`storage.records.run_lock`) says whether a younger driver has come. A thread
reads it every two seconds and interrupts the main thread, as Ctrl-C would: so the elder ends the
same, tested way, wherever it is, and its generators and trainers with it.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from runs.state import ENDED, run_state
from schemas.errors import FencedError, RunFailedError
from schemas.events import Event
from storage.records.events import EventWriter, read_events
from storage.records.run_lock import current_drivers, fenced_message, take_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
    elders = _at_work(store, roles)
    lock = take_run(store, job=job, roles=roles)
    for elder in elders:
        sys.stderr.write(
            f"{store.url}: {elder} is at work on this run; this job takes over, that one ends\n"
        )
    with logged(store, job=job, lock=lock), stopped_when_fenced(lock):
        yield lock


def _at_work(store: RunStore, roles: Sequence[Role]) -> list[Driver]:
    """Drivers with one of these roles, if the run's events do not say that it has ended."""
    state = run_state(list(read_events(store)), has_results=False)
    if state.name in (*ENDED, "not_started", "silent"):
        return []
    return [each for each in current_drivers(store) if set(each.roles) & set(roles)]


@contextmanager
def logged(store: RunStore, *, job: str, lock: RunLock | None = None) -> Iterator[None]:
    """Write ``run_started`` now, and at the end of the block how it ended.

    A driver that is killed writes nothing: its log ends.

    Args:
        lock: The driver's hold on the run; None if it took none.

    Raises:
        TerminatedError: If SIGTERM ended the block.
        BaseException: Whatever else ended it.
    """

    def log(event: Event, **fields: Any) -> None:
        # A writer each time: a signal may come while the main thread holds another's lock.
        events = EventWriter(store, "run", epoch=lock.epoch if lock else 0)
        events.emit(event, job=job, **fields)
        events.flush()

    def log_end(error: BaseException) -> None:
        with suppress(OSError):  # the store may be what failed; its error is the one to show
            log(_event_of(error), kind=type(error).__name__, reason=str(error))

    roles = {"roles": list(lock.roles)} if lock else {}
    command = shlex.join(["python", *sys.argv])
    log(Event.RUN_STARTED, host=platform.node(), pid=os.getpid(), command=command, **roles)
    try:
        with _stopped_by_sigterm(log_end):
            yield
    except TerminatedError:
        raise
    except BaseException as error:
        log_end(error)
        raise
    log(Event.RUN_ENDED)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM: ``ray job stop``, a batch system or ``kill`` wants the job to end."""


@contextmanager
def _stopped_by_sigterm(log_end: Callable[[BaseException], None]) -> Iterator[None]:
    """Make SIGTERM what Ctrl-C is; outside of the main thread nothing changes.

    The event is written before anything is put in order: who sends SIGTERM may kill soon after,
    ``ray job stop`` after three seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        error = TerminatedError("stopped by SIGTERM")
        log_end(error)
        raise error

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _event_of(error: BaseException) -> Event:
    if isinstance(error, FencedError):
        return Event.RUN_FENCED
    # While Ray connects, it makes SIGTERM an exit with the signal's number.
    is_stopped = isinstance(error, SystemExit) and error.code == signal.SIGTERM
    if is_stopped or isinstance(error, KeyboardInterrupt):
        return Event.RUN_INTERRUPTED
    return Event.RUN_FAILED


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
