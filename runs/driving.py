"""What every job does that works on a run: take it, tell the event log, stop when it is taken.

The run's lock (:mod:`storage.records.run_lock`) says whether a younger driver has come. A thread
reads it every two seconds and interrupts the main thread, as Ctrl-C would: so the elder ends the
same, tested way, wherever it is, and its generators and trainers with it.
"""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runs.events import told
from schemas.errors import FencedError, RunFailedError
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
        store: The run.
        job: Name of the job, for the event log and the lock.
        roles: What the job does; an older driver with one of these roles is fenced.

    Yields:
        The lock; what commits anything asks it before.

    Raises:
        FencedError: If a younger driver took the run over.
        OSError: If the store cannot be reached.
    """
    lock = take_run(store, job=job, roles=roles)
    with told(store, job=job, lock=lock), stopped_when_fenced(lock):
        yield lock


@contextmanager
def stopped_when_fenced(lock: RunLock, *, look_s: float = LOOK_S) -> Iterator[None]:
    """Interrupt the block as soon as a younger driver holds the run.

    Outside of the main thread nothing is interrupted: there the block only ends by its own looks.

    Args:
        lock: The driver's hold.
        look_s: Seconds between two looks.

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
