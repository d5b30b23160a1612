"""An attempt at a unit, and what earlier ones left behind."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.make.isolate import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEATHS_OF_A_KILLER = 2
"""Processes that must have died over a sample alone: one may have been killed by chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitHistory:
    """What earlier attempts at a unit left.

    Attributes:
        deaths: Attempts that ended with their process, through no fault of the machine.
        suspects: Key to the number of deaths while that sample alone was worked on.
        partials: Files with images that generators had made before they had to leave.
    """

    deaths: int = 0
    suspects: Mapping[str, int] = field(default_factory=dict)
    partials: tuple[str, ...] = ()

    @property
    def is_careful(self) -> bool:
        """Whether samples are to be worked on one at a time."""
        return self.deaths > 0

    @property
    def killers(self) -> dict[str, Failure]:
        """Samples that are not to be touched any more, and why."""
        return {
            key: Failure("killed_its_process", f"{deaths} processes died while they worked on it")
            for key, deaths in self.suspects.items()
            if deaths >= DEATHS_OF_A_KILLER
        }

    def after_death(self, working_on: Iterable[str]) -> UnitHistory:
        """The history after one more death.

        Args:
            working_on: Keys that the process worked on alone when it died, if that is known.
        """
        suspects = dict(self.suspects)
        for key in working_on:
            suspects[key] = suspects.get(key, 0) + 1
        return replace(self, deaths=self.deaths + 1, suspects=suspects)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a unit.

    Attributes:
        name: Unique, whoever makes it; in the name of the tar and in every row.
        epoch: Epoch of the driver that hands the unit out; 0 if it took none.
        history: What earlier attempts left.
    """

    name: str
    epoch: int = 0
    history: UnitHistory = field(default_factory=UnitHistory)


def new_attempt(number: int, *, epoch: int = 0, history: UnitHistory | None = None) -> Attempt:
    """An attempt with a name of its own.

    Args:
        number: Which attempt at the unit, from 1; shown in the name, like the epoch.
        epoch: As :attr:`Attempt.epoch`.
        history: As :attr:`Attempt.history`.
    """
    of_driver = f"e{epoch}-" if epoch else ""
    name = f"{of_driver}a{number:02d}-{uuid.uuid4().hex[:8]}"
    return Attempt(name, epoch, history or UnitHistory())
