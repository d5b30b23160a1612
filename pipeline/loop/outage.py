"""How long a store has not answered, as seen by those who ask it now and then."""

from __future__ import annotations


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
