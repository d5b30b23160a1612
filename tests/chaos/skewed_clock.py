"""Processes whose clock is wrong: a ``sitecustomize`` that Python loads when it starts."""

from __future__ import annotations

from pathlib import Path

_SITECUSTOMIZE = """
import datetime
import time

SKEW_S = {skew_s!r}

_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + SKEW_S
time.time_ns = lambda: _time_ns() + int(SKEW_S * 1e9)


class _Skewed(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, _datetime)


_datetime = datetime.datetime


class datetime_of_a_wrong_clock(_datetime, metaclass=_Skewed):
    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + datetime.timedelta(seconds=SKEW_S)

    @classmethod
    def utcnow(cls):
        return _datetime.utcnow() + datetime.timedelta(seconds=SKEW_S)


datetime.datetime = datetime_of_a_wrong_clock
"""


def skewed_clock(folder: Path, *, hours: float) -> dict[str, str]:
    """Environment of processes whose clock is some hours ahead, or behind if negative.

    Args:
        folder: Where to write what Python loads.
        hours: How far off the clock is.
    """
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(skew_s=3600.0 * hours))
    return {"PYTHONPATH": str(folder)}
