"""A clock that a test sets."""

from __future__ import annotations


class Clock:
    """Called, it says the seconds that the test last gave it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
