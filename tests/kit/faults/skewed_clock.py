"""Processes whose clock is wrong: a ``sitecustomize`` that Python loads when it starts."""

from __future__ import annotations

from pathlib import Path

_SITECUSTOMIZE = """
import datetime
import sys
import time
import types

SKEW_S = {skew_s!r}
PACKAGES = {packages!r}

_datetime = datetime.datetime
wrong_time = types.ModuleType("time")
wrong_time.__dict__.update(time.__dict__)
wrong_time.time = lambda: time.time() + SKEW_S


class _AnyDatetime(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, _datetime)


class WrongDatetime(_datetime, metaclass=_AnyDatetime):
    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + datetime.timedelta(seconds=SKEW_S)


class Finder:
    # Compiled modules know the layout of the true class, and Ray sends the true functions around:
    # they are replaced in the project's modules alone, which is where decisions are made.
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in PACKAGES:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((each for each in specs if each is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                if getattr(module, "datetime", None) is _datetime:
                    module.datetime = WrongDatetime
                if getattr(module, "time", None) is time:
                    module.time = wrong_time

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""
_PACKAGES = ("schemas", "storage", "sources", "evaluation", "pipeline", "trainers", "jobs")


def skewed_clock(folder: Path, *, hours: float) -> dict[str, str]:
    """Environment of processes whose clock is some hours ahead, or behind if negative.

    Args:
        folder: Where to write what Python loads.
        hours: How far off the clock is.
    """
    folder.mkdir(parents=True)
    text = _SITECUSTOMIZE.format(skew_s=3600.0 * hours, packages=_PACKAGES)
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}
