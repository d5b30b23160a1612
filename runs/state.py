"""The state of a run, and its newest figures, from its event log."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pipeline.loop.capacity import NEWER_WEIGHTS_WANTED
from schemas.events import Event
from schemas.run_layout import EVENTS_DIR
from schemas.text import number_of
from storage.records.events import parse_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.files.stores import RunStore
    from storage.records.run_lock import Role

logger = logging.getLogger(__name__)

StateName = Literal[
    "not_started",
    "running",
    "starved",
    "waiting_for_weights",
    "paused",
    "draining",
    "finished",
    "failed",
    "stopped",
    "silent",
]

ENDED: tuple[StateName, ...] = ("finished", "failed", "stopped")
"""States in which no driver is at work."""

SILENT_AFTER_S = 180.0
"""Trainers and generators write an event at least every 30 s."""

ALL_ROLES: tuple[Role, ...] = ("generate", "train")
_DRIVER_EVENTS = (Event.RUN_STARTED, Event.RUN_ENDED, Event.RUN_FAILED, Event.RUN_INTERRUPTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """What a run is doing.

    ``running``: work is done. ``starved``: one side waits for the other; ``reason`` says which.
    ``waiting_for_weights``: so do generators until training publishes weights to relabel with.
    ``paused``: the user wants no unit begun. ``draining``: a generator's machine is going.
    ``finished``: the results are written. ``failed``: the last driver gave up. ``stopped``: it was
    interrupted, or one job of several has ended. ``silent``: no sign of a driver, and no end.
    ``not_started``: no driver has written an event yet. ``resume`` is the command that goes on with
    a run that is failed, stopped or silent; empty if it is not known.
    """

    name: StateName
    reason: str = ""
    resume: str = ""


def run_state(
    events: Sequence[dict[str, Any]],
    *,
    has_results: bool,
    now: datetime | None = None,
    heard_at: datetime | None = None,
) -> RunState:
    """Find a run's state.

    Args:
        events: Its event log, in the order of :func:`storage.records.events.read_events`.
        now: The time; the clock's if None.
        heard_at: When the newest event was written by the store's clock, which the clocks of the
            run's machines cannot confuse; the time in the event itself if None.
    """
    if has_results:
        return RunState(name="finished", reason="results.json is written")
    if not events:
        return RunState(name="not_started", reason="no driver has written an event yet")
    current = current_events(events)
    latest = {_epoch(event): event for event in current if event["event"] in _DRIVER_EVENTS}
    ends = [event for event in latest.values() if event["event"] != Event.RUN_STARTED]
    failures = [event for event in ends if event["event"] == Event.RUN_FAILED]
    if failures or (ends and len(ends) == len(latest)):
        return _ended([*ends, *failures][-1], _command_of(current))
    silence_s = ((now or datetime.now(UTC)) - (heard_at or _time(events[-1]))).total_seconds()
    if silence_s > SILENT_AFTER_S:
        return RunState(
            name="silent",
            reason=f"no event for {silence_s:.0f} s: the driver is lost, or captions or scores",
            resume=_command_of(current),
        )
    return _going_on(current)


def current_events(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of drivers that no younger driver of the same role has replaced."""
    taken: set[str] = set()
    live: set[int] = set()
    begun = 0
    for index, event in reversed(list(enumerate(events))):
        if event["event"] == Event.RUN_STARTED:
            roles = set(event.get("roles", ALL_ROLES))
            if taken.isdisjoint(roles):
                begun = index
                live.add(_epoch(event))
            taken |= roles
    return [event for event in events[begun:] if not live or _epoch(event) in live]


def _epoch(event: dict[str, Any]) -> int:
    epoch = event.get("epoch", 0)
    return epoch if isinstance(epoch, int) else 0


def _ended(event: dict[str, Any], command: str) -> RunState:
    job = event.get("job", "the job")
    if event["event"] == Event.RUN_FAILED:
        return RunState(name="failed", reason=str(event.get("reason", "")), resume=command)
    if event["event"] == Event.RUN_INTERRUPTED:
        how = str(event.get("reason") or "interrupted")
        reason = f"{job} was {how}; the same command resumes"
        return RunState(name="stopped", reason=reason, resume=command)
    return RunState(name="stopped", reason=f"{job} has ended")


def _command_of(events: Sequence[dict[str, Any]]) -> str:
    """The command line of the newest driver; empty if it was not noted."""
    noted = (str(each["command"]) for each in reversed(events) if "command" in each)
    return next(noted, "")


def _going_on(events: Sequence[dict[str, Any]]) -> RunState:
    """Both sides count; what a person has to know first comes first."""
    generation = events[_last_index(events, Event.GENERATION_PROGRESS)]
    if generation["event"] != Event.GENERATION_PROGRESS:
        generation = {}
    kind, reason = generation.get("state"), str(generation.get("reason", ""))
    if kind == "failed":
        return RunState(name="failed", reason=f"generation stopped: {reason}")
    if kind == "paused":
        return RunState(name="paused", reason=reason)
    if kind == "draining":
        number = generation.get("generators_draining", "?")
        return RunState(name="draining", reason=f"{number_of(number, 'generator')} must leave")
    trainer = [e for e in events if e["event"] in {Event.TRAINER_PROGRESS, Event.TRAINER_STARVED}]
    if trainer and trainer[-1]["event"] == Event.TRAINER_STARVED:
        last = trainer[-1]
        return RunState(
            name="starved",
            reason=f"training waits for synthetic samples: {last.get('found')} of "
            f"{last.get('wanted')} after {last.get('waited_s', 0):.0f} s",
        )
    if kind == "starved":
        return RunState(name=name_of_starved(reason), reason=f"generators wait: {reason}")
    return RunState(name="running")


def name_of_starved(reason: str) -> StateName:
    """Whether generators that have nothing to do only wait for weights to relabel with."""
    return "waiting_for_weights" if reason.startswith(NEWER_WEIGHTS_WANTED) else "starved"


def _last_index(events: Sequence[dict[str, Any]], name: str) -> int:
    return next((i for i in range(len(events) - 1, -1, -1) if events[i]["event"] == name), 0)


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"])


class EventTail:
    """Newest event of one name since the tail was made; each log segment is read once.

    A store that fails hides what is new for a while, and stops nobody.
    """

    def __init__(self, store: RunStore, event: Event) -> None:
        self._store = store
        self._event = event
        self._read: set[str] = set(store.list_dir(EVENTS_DIR))
        self._newest: dict[str, Any] = {}

    def newest(self) -> dict[str, Any]:
        """The latest such event; empty before the first."""
        try:
            self._read_segments()
        except OSError as error:
            logger.warning("events_not_read error=%s", error)
        return self._newest

    def _read_segments(self) -> None:
        names = set(self._store.list_dir(EVENTS_DIR))
        self._read &= names
        for name in sorted(names - self._read):
            text = self._store.read_bytes(f"{EVENTS_DIR}/{name}").decode(errors="replace")
            self._read.add(name)
            for event in filter(None, map(parse_event, text.splitlines())):
                is_newer = event["time"] >= self._newest.get("time", "")
                if event["event"] == self._event and is_newer:
                    self._newest = event
