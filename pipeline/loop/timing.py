"""Clocks of a generation loop: deadlines of units, throughput, outages of the store."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.config_operations import GenerationSection
    from schemas.unit import Unit

WINDOW_S = 60.0
"""Span over which throughput is measured."""

FACTOR = 5.0
"""A unit may take this many times as long as units of its kind and size usually do."""

PATIENCE = 4.0
"""So much more for a generator's first unit, and for samples worked on one at a time."""

MIN_MEASURED = 3
"""Units that must have ended before anything is concluded."""

_REMEMBERED = 64


class UnitDeadline:
    """The deadline of units, by kind.

    Args:
        limits: ``unit_timeout_s`` is the most, and holds until enough units were measured;
            ``min_unit_timeout_s`` the least.
    """

    def __init__(self, limits: GenerationSection) -> None:
        self._most_s = limits.unit_timeout_s
        self._least_s = limits.min_unit_timeout_s
        self._measured: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._usual: dict[str, float] = {}

    def note(self, unit: Unit, spent_s: float) -> float:
        """Take note of a unit that ended.

        Returns:
            Seconds that a sample of it took.
        """
        per_sample_s = spent_s / max(unit.num_samples, 1)
        measured = self._measured[unit.kind]
        measured.append(per_sample_s)
        if len(measured) >= MIN_MEASURED:
            self._usual[unit.kind] = statistics.median(measured)
        return per_sample_s

    def limit_s(self, unit: Unit, *, own_s: float | None = None, is_careful: bool = False) -> float:
        """Seconds that a unit may take.

        Args:
            own_s: Slowest time of a sample at this generator, in seconds: one on a slow machine is
                given the time that it takes. None before its first unit.
            is_careful: Whether its samples are worked on one at a time.
        """
        usual_s = self._usual.get(unit.kind)
        if usual_s is None:
            return self._most_s
        factor = FACTOR * (PATIENCE if own_s is None or is_careful else 1.0)
        expected_s = factor * max(usual_s, own_s or 0.0) * unit.num_samples
        return min(self._most_s, max(self._least_s, expected_s))


class Meter:
    """Counts samples and busy time of generators; all clock readings come from the caller."""

    def __init__(self) -> None:
        self._finished: deque[tuple[float, int]] = deque()
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._busy_s = 0.0

    def begin(self, generator: str, *, now_s: float) -> None:
        """Note that a generator was given work; its wall time counts from the first time on."""
        self._began.setdefault(generator, now_s)

    def finish(self, generator: str, *, samples: int, busy_s: float, now_s: float) -> None:
        """Note that a generator has finished a unit."""
        self._finished.append((now_s, samples))
        self._ended[generator] = now_s
        self._busy_s += busy_s
        while self._finished[0][0] < now_s - WINDOW_S:
            self._finished.popleft()

    def samples_per_s(self, *, now_s: float) -> float | None:
        """Samples a second over the last minute; None before the first unit is finished."""
        recent = [count for at, count in self._finished if at >= now_s - WINDOW_S]
        if not recent:
            return None
        span_s = min(WINDOW_S, now_s - min(self._began.values()))
        return sum(recent) / span_s if span_s > 0 else None

    def busy_share(self) -> float | None:
        """Share of the generators' time, from first work to last result, spent on units."""
        wall_s = sum(ended - self._began[name] for name, ended in self._ended.items())
        return self._busy_s / wall_s if wall_s > 0 else None


class Outage:
    """Failures in a row, with no success between them and no long silence.

    Args:
        limit_s: Two failures further apart than half of it belong to different outages; in seconds.
    """

    def __init__(self, *, limit_s: float) -> None:
        self.limit_s = limit_s
        self._began_s = 0.0
        self._noted_s = float("-inf")

    def note(self, *, now_s: float) -> float:
        """Note a failure; returns how long the outage has lasted, in seconds."""
        if now_s - self._noted_s > self.limit_s / 2:
            self._began_s = now_s
        self._noted_s = now_s
        return now_s - self._began_s

    def end(self) -> None:
        """Note a success."""
        self._noted_s = float("-inf")
