"""What may become of hostile input: it is read as stated, becomes a row, or is refused."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 - to make what must never be loaded
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY_BYTES = 1 << 30
"""Address space that reading one hostile input may add."""

SECONDS = 10.0
"""Processor time that reading one hostile input may take."""

CANARY = "CANARY_PATH"


@dataclass(frozen=True)
class Accepted:
    """It is read; ``check`` says whether what came of it is right."""

    check: Callable[[Any], Any]


@dataclass(frozen=True)
class Row:
    """The sample becomes a failed row with this reason; the run goes on."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Refused:
    """The whole input is refused with an error that a job shows as one message."""

    error: type[Exception]
    message: str


@dataclass(frozen=True)
class Item:
    """One hostile input: writes itself into an empty folder and reads itself as the system does."""

    name: str
    read: Callable[[Path], Any]
    outcome: Accepted | Row | Refused


class Bomb:
    """Unpickling it writes the canary's file."""

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"open(__import__('os').environ[{CANARY!r}], 'w').close()"
        return exec, (code,)


PICKLE = pickle.dumps(Bomb(), protocol=2)


@contextmanager
def bounded() -> Iterator[None]:
    """Let the process take a limited amount of further memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
