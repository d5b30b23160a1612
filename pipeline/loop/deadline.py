"""How long a unit may take before its generator counts as stuck: learnt from those that ended."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.config_operations import GenerationSection
    from schemas.unit import Unit

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
            unit: The unit.
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
