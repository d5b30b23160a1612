"""A generator and its units as the driver sees them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.make.attempt import Attempt
    from pipeline.make.drain import GivenBack
    from pipeline.on_ray.generator import AttemptFailure
    from schemas.unit import Unit
    from storage.manifests.unit_outcome import UnitOutcome

LEASES_PER_GENERATOR = 2
"""One unit in the making and one waiting, so that no generator idles between two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Return:
    """A unit that has come back from a generator.

    Attributes:
        generator: Name of the generator.
        unit: The unit.
        attempt: The attempt.
        outcome: What became of it; None if the generator was lost before it began with it, or
            with its machine.
    """

    generator: str
    unit: Unit
    attempt: Attempt
    outcome: UnitOutcome | GivenBack | AttemptFailure | None


@dataclass(kw_only=True, slots=True)
class Lease:
    """A unit at a generator.

    Attributes:
        unit: The unit.
        attempt: The attempt.
        promise: What will come back.
        begun_at: Clock reading when the work on it began; None while another one is before it.
    """

    unit: Unit
    attempt: Attempt
    promise: Any
    begun_at: float | None = None

    def age_s(self) -> float:
        """Seconds since the work on it began; 0 before."""
        return 0.0 if self.begun_at is None else time.monotonic() - self.begun_at


@dataclass(kw_only=True, slots=True)
class Worker:
    """A generator actor.

    Attributes:
        name: Its name within the run.
        actor: Its handle.
        preparing: Promise that its models are loaded; None if it was not asked, or has answered.
        waking: Promise that its process is there, asked for with ``preparing``: until it is kept,
            the generator waits for a machine.
        awake_at: Clock reading when that was first seen; None before.
        is_ready: Whether its models are loaded.
        ask_at: Clock reading before which it is not asked to prepare (again).
        lost_at: Clock reading when it was lost; None while it is well.
        leases: Its units; it works on the first.
        deaths: How often it was lost since it last finished a unit.
        sample_s: Seconds that a sample of its last unit took; None before its first.
        node_id: Where it was when its models were loaded.
        is_draining: Whether it gets no more units and is stopped after those it holds.
        is_leaving: Whether it is not started again after that.
    """

    name: str
    actor: Any
    preparing: Any = None
    waking: Any = None
    awake_at: float | None = None
    is_ready: bool = False
    ask_at: float = 0.0
    lost_at: float | None = None
    leases: list[Lease] = field(default_factory=list)
    deaths: int = 0
    sample_s: float | None = None
    node_id: str = ""
    is_draining: bool = False
    is_leaving: bool = False

    def ask_to_prepare(self) -> None:
        """Have it load its models, as soon as there is a machine for it."""
        self.preparing = self.actor.prepare.remote()
        self.waking, self.awake_at = self.actor.ping.remote(), None

    def promises(self) -> list[Any]:
        """What may arrive from it next."""
        first = [lease.promise for lease in self.leases[:1]]
        return first if self.preparing is None else [*first, self.preparing]

    def head(self) -> Any:
        """Promise of the unit in the making; None if it has none."""
        return self.leases[0].promise if self.leases else None

    def has_room(self) -> bool:
        """Whether it may be given one more unit."""
        can_work = self.is_ready and not self.is_draining
        return can_work and len(self.leases) < LEASES_PER_GENERATOR
