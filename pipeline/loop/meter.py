"""Throughput of a generation loop."""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0


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
        """Note that a generator has finished a unit.

        Args:
            generator: Its name.
            samples: Samples of the unit.
            busy_s: Seconds it worked on the unit.
            now_s: Clock reading.
        """
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
