"""When a generator has to leave its machine: finish the unit in time, else give it back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RESERVE_S = 5.0
"""Kept free before the deadline: the last upload and the commit must not be cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenBack:
    """A unit that was given back whole, nothing of it committed.

    Attributes:
        done: Samples whose images had been made.
        total: Samples of the unit.
        kept: Images that were stored for the next attempt.
        partial: The file that they are in; "" if there is none.
    """

    done: int
    total: int
    kept: int = 0
    partial: str = ""


class UnitGivenBackError(Exception):
    """Stops an attempt at a unit that would not end before the machine does.

    Attributes:
        given_back: What the attempt leaves.
    """

    def __init__(self, *, done: int, total: int) -> None:
        super().__init__(f"{done} of {total} samples made; the machine leaves before the rest")
        self.given_back = GivenBack(done=done, total=total)

    def keep(self, partial: str, *, kept: int) -> None:
        """Note the file in which the images were stored that had been made."""
        self.given_back = replace(self.given_back, partial=partial, kept=kept)


class Drain:
    """Tells a generator between two batches whether to go on.

    One thread works and calls :meth:`begin`, :meth:`before_batch` and :meth:`finish`; another may
    call :meth:`request` at any time.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_s: float | None = None
        self._began_s = clock()
        self._seconds_per_sample: float | None = None

    @property
    def is_requested(self) -> bool:
        """Whether no further unit may be begun."""
        return self._until_s is not None

    def request(self, *, remaining_s: float) -> None:
        """Ask to leave within ``remaining_s`` seconds; infinity means after the unit."""
        self._until_s = self._clock() + remaining_s

    def begin(self, *, total: int) -> None:
        """Note that a unit of ``total`` samples begins.

        Raises:
            UnitGivenBackError: If the generator has been asked to leave.
        """
        if self.is_requested:
            raise UnitGivenBackError(done=0, total=total)
        self._began_s = self._clock()

    def before_batch(self, done: int, total: int) -> None:
        """Stop here if the unit would not be committed in time.

        The rest is taken to last as long as before: the time of a sample of the last whole unit,
        else of this unit so far. A unit that cannot be judged yet is given back.

        Args:
            done: Samples of the unit whose images are made.

        Raises:
            UnitGivenBackError: If it would not.
        """
        if self._until_s is None:
            return
        now_s = self._clock()
        spent_s = now_s - self._began_s
        if self._seconds_per_sample is not None:
            rest_s = self._seconds_per_sample * total - spent_s
        elif done:
            rest_s = spent_s / done * (total - done)
        else:
            rest_s = 0.0 if self._until_s == float("inf") else float("inf")
        if now_s + rest_s + RESERVE_S > self._until_s:
            raise UnitGivenBackError(done=done, total=total)

    def finish(self, *, total: int) -> None:
        """Note that the unit is committed."""
        if total:
            self._seconds_per_sample = (self._clock() - self._began_s) / total
