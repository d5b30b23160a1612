"""Processes that are killed, or stopped, exactly before a chosen change of a run directory."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from storage.files.stores import RunStore

CHANGES = ("write_bytes", "put_if_absent", "remove_file", "remove")
BROKE = 99

Matches = Callable[[str, str], bool]


def in_a_process(work: Callable[[], object]) -> int:
    """Do work in a process of its own; minus the signal's number if it was killed."""
    return ended(start_process(work))


def start_process(work: Callable[[], object]) -> int:
    """Begin work in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except SystemExit as error:
        os._exit(int(error.code or 0))
    except BaseException:  # noqa: BLE001 - the end of the process, whatever it is
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(BROKE)
    os._exit(0)


def ended(child: int) -> int:
    """Wait for a process; its exit code, or minus the signal's number."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def strike(sent: signal.Signals, *, before: Matches, after: int = 0) -> None:
    """Send this process a signal once, right before a change of a store.

    Args:
        sent: SIGKILL or SIGSTOP.
        before: Told the method's name and the path; whether the change counts.
        after: So many changes that count are let through first.
    """
    left = [after]

    def striking(method: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def change(store: RunStore, rel: str, *arguments: Any) -> Any:
            if before(method, rel):
                left[0] -= 1
                if left[0] == -1:
                    os.kill(os.getpid(), sent)
            return original(store, rel, *arguments)

        return change

    for method in CHANGES:
        setattr(RunStore, method, striking(method, getattr(RunStore, method)))


def lasting(method: str, rel: str) -> bool:
    """Whether a change is one of what the run holds, not of its log or its lock."""
    return rel.startswith(("shards/", "manifest/", "weights/", "captions/", "checkpoints/"))


def manifest_of_a_unit(method: str, rel: str) -> bool:
    """Whether a change is a unit's commit."""
    return method == "put_if_absent" and rel.startswith("manifest/units/")
