"""How far something is that can be counted: a bar with the time left on a terminal, else lines."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    OnDone = Callable[[int, int], None]
    """Is told how many are done, and of how many."""

PLAIN_EVERY_S = 15.0


class Pace:
    """The time that is left, from the time that was taken since the first look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def seconds_left(self, done: int, total: int) -> float | None:
        """None as long as nothing has been done since the first look; before is earlier work."""
        now = self._clock()
        started, before = self._first = self._first or (now, done)
        return (total - done) * (now - started) / (done - before) if done > before else None


def duration(seconds: float) -> str:
    """A time to read: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def counted(what: str, *, console: Console | None = None) -> Iterator[OnDone]:
    """Show how many are done, on the error output, so that what a command prints stays its own.

    Args:
        what: What is counted, such as ``images``.
        console: Where to; standard error if None.

    Yields:
        To be called after each step. Without a terminal it writes a line now and then.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what, console).tell
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        yield tell


class _Lines:
    """A line now and then, and none for what is soon over."""

    def __init__(self, what: str, console: Console) -> None:
        self._what = what
        self._console = console
        self._pace = Pace()
        self._pace.seconds_left(0, 1)
        self._told_s = time.monotonic()

    def tell(self, done: int, total: int) -> None:
        left = self._pace.seconds_left(done, total)
        now = time.monotonic()
        if now - self._told_s < PLAIN_EVERY_S:
            return
        self._told_s = now
        about = "" if left is None else f", about {duration(left)} left"
        self._console.print(f"{done} of {total} {self._what}{about}", highlight=False)
