"""Which driver a run belongs to: each takes the next epoch, and the greatest epoch counts.

An epoch is an object that is created if absent; so no two drivers hold the same, and a driver finds
out that it has a successor by one listing. There is no heartbeat, no expiry and no clock in it: a
driver that was taken for dead may wake up at any time, and stops at its next check.

A driver has *roles*, generation or training or both: those of different roles may work side by
side.

All of it raises OSError if the store cannot be reached.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from schemas.errors import AlreadyCommittedError, FencedError
from schemas.run_layout import LOCK_DIR, epoch_path, parse_epoch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.files.stores import RunStore

Role = Literal["generate", "train"]

KEPT_EPOCHS = 8
"""Newest epochs whose records stay, beside the newest of each role."""

_JOB_ENVIRONMENT = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """Content of ``lock/epoch-<epoch>.json``: who took the run, for people to read.

    Attributes:
        epoch: Its number, from 1.
        roles: What it does.
        job: Name of the job.
        host: Machine that it runs on.
        pid: Its process there.
        submission_id: Under which ``ray job`` knows it; empty if it was not submitted.
        started_at: UTC, ISO 8601, by that machine's clock.
        token: Makes every record another: pods may share a name, and a store that was asked twice
            can tell by the bytes whose record it holds.
    """

    epoch: int
    roles: tuple[Role, ...]
    job: str
    host: str
    pid: int
    submission_id: str
    started_at: str
    token: str = ""

    def to_json(self) -> str:
        """Serialise all fields."""
        return json.dumps(asdict(self), indent=1)

    def __str__(self) -> str:
        """Where to find it."""
        submitted = f", submission {self.submission_id}" if self.submission_id else ""
        return (
            f"{self.job} on host {self.host}, pid {self.pid}{submitted}, since {self.started_at}, "
            f"epoch {self.epoch}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLock:
    """A driver's hold on a run; its trainers get a copy.

    Attributes:
        store: The run.
        epoch: The driver's epoch; 0 if it took none.
        roles: What the driver does; without any it has no successor.
    """

    store: RunStore
    epoch: int = 0
    roles: tuple[Role, ...] = ()

    def successor(self) -> Driver | None:
        """The youngest driver that took one of the roles since; None while the run is held."""
        if not self.roles:
            return None
        younger = [epoch for epoch in _epochs(self.store) if epoch > self.epoch]
        found = (_read(self.store, epoch) for epoch in reversed(younger))
        return next((d for d in found if d and not set(self.roles).isdisjoint(d.roles)), None)

    def expect_held(self) -> None:
        """Check that no younger driver has taken the run.

        Raises:
            FencedError: If one has; it says who and what to do.
        """
        successor = self.successor()
        if successor is not None:
            raise FencedError(fenced_message(self, successor))


def take_run(store: RunStore, *, job: str, roles: Sequence[Role]) -> RunLock:
    """Become the run's driver: every older one of the same role stops at its next check.

    Args:
        roles: What the driver is going to do.
    """
    while True:
        taken = _epochs(store)
        driver = Driver(
            epoch=max(taken, default=0) + 1,
            roles=tuple(roles),
            job=job,
            host=platform.node(),
            pid=os.getpid(),
            submission_id=_submission_id(),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            token=uuid.uuid4().hex,
        )
        try:
            store.put_if_absent(epoch_path(driver.epoch), driver.to_json().encode())
        except AlreadyCommittedError:
            # Another driver's, or ours after a repeated request: the next number is as good.
            continue
        with suppress(OSError):
            _forget_old(store)
        return RunLock(store=store, epoch=driver.epoch, roles=driver.roles)


def drivers(store: RunStore) -> list[Driver]:
    """Drivers of a run whose records are kept, the youngest last."""
    found = (_read(store, epoch) for epoch in _epochs(store))
    return [driver for driver in found if driver is not None]


def current_drivers(store: RunStore) -> list[Driver]:
    """Those that no younger one has replaced, the youngest first; they may have ended since."""
    found: list[Driver] = []
    taken: set[Role] = set()
    for driver in reversed(drivers(store)):
        if taken.isdisjoint(driver.roles):
            found.append(driver)
        taken.update(driver.roles)
    return found


def fenced_message(lock: RunLock, successor: Driver) -> str:
    """Say who took the run over, and what to do."""
    return (
        f"{lock.store.url}: a younger driver took this run over: {successor}; this one (epoch "
        f"{lock.epoch}) has stopped and changes nothing more. What is committed stays. Leave the "
        "run to it; or end it, and start the same command here again"
    )


def _epochs(store: RunStore) -> list[int]:
    parsed = (parse_epoch(name) for name in store.list_dir(LOCK_DIR))
    return sorted(epoch for epoch in parsed if epoch is not None)


def _read(store: RunStore, epoch: int) -> Driver | None:
    """One record; None if it is gone or says nothing."""
    try:
        found = json.loads(store.read_bytes(epoch_path(epoch)))
        known = {each.name: found[each.name] for each in fields(Driver) if each.name in found}
        return Driver(**{**known, "roles": tuple(known["roles"]), "epoch": epoch})
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _forget_old(store: RunStore) -> None:
    """Remove old records, but never a role's newest: an elder finds its successor by it."""
    taken = _epochs(store)
    if len(taken) <= KEPT_EPOCHS + 1:
        return
    newest_of_role = {role: driver.epoch for driver in drivers(store) for role in driver.roles}
    kept = {*taken[-KEPT_EPOCHS:], *newest_of_role.values()}
    for epoch in taken:
        if epoch not in kept:
            store.remove_file(epoch_path(epoch))


def _submission_id() -> str:
    """Id that ``ray job submit`` gave to this process; empty outside of such a job."""
    try:
        job = json.loads(os.environ.get(_JOB_ENVIRONMENT, "{}"))
        return str(job["metadata"]["job_submission_id"])
    except (ValueError, TypeError, KeyError):
        return ""
