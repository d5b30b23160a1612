"""The state of a run, from what its storage holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from runs.events import FAILED, INTERRUPTED, RUN_EVENTS, STARTED
from trainers.progress import PROGRESS_EVENT

if TYPE_CHECKING:
    from collections.abc import Sequence

StateName = Literal[
    "not_started",
    "running",
    "starved",
    "paused",
    "draining",
    "finished",
    "failed",
    "stopped",
    "silent",
]

SILENT_AFTER_S = 180.0
"""Trainers and generators tell at least every 30 s."""

ALL_ROLES = ("generate", "train")
GENERATION_EVENT = "generation_progress"
TRAINER_STARVED_EVENT = "starved"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """What a run is doing.

    ``running``: work is done. ``starved``: one side waits for the other; ``reason`` says which.
    ``paused``: the user wants no unit begun. ``draining``: a generator's machine is going.
    ``finished``: the results are written. ``failed``: the last driver gave up. ``stopped``: it was
    interrupted, or one job of several has ended. ``silent``: no sign of a driver, and no end.
    ``not_started``: no driver has told anything yet.
    """

    name: StateName
    reason: str = ""


def run_state(
    events: Sequence[dict[str, Any]],
    *,
    has_results: bool,
    now: datetime | None = None,
    heard_at: datetime | None = None,
) -> RunState:
    """Tell a run's state.

    Args:
        events: Its event log, in the order of :func:`storage.records.events.read_events`.
        has_results: Whether its results are written.
        now: The time; the clock's if None.
        heard_at: When the newest event was written by the store's clock, which the clocks of the
            run's machines cannot confuse; the time that the event itself tells if None.

    Returns:
        The state.
    """
    if has_results:
        return RunState(name="finished", reason="results.json is written")
    if not events:
        return RunState(name="not_started", reason="no driver has told anything yet")
    current = current_events(events)
    told = {_epoch(event): event for event in current if event["event"] in RUN_EVENTS}
    ends = [event for event in told.values() if event["event"] != STARTED]
    failures = [event for event in ends if event["event"] == FAILED]
    if failures or (ends and len(ends) == len(told)):
        return _ended([*ends, *failures][-1])
    silence_s = ((now or datetime.now(UTC)) - (heard_at or _time(events[-1]))).total_seconds()
    if silence_s > SILENT_AFTER_S:
        return RunState(
            name="silent",
            reason=f"no event for {silence_s:.0f} s: the driver is lost, or captions or scores",
        )
    return _going_on(current)


def current_events(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the drivers have told that no younger driver of the same role has replaced."""
    taken: set[str] = set()
    live: set[int] = set()
    begun = 0
    for index, event in reversed(list(enumerate(events))):
        if event["event"] == STARTED:
            roles = set(event.get("roles", ALL_ROLES))
            if taken.isdisjoint(roles):
                begun = index
                live.add(_epoch(event))
            taken |= roles
    return [event for event in events[begun:] if not live or _epoch(event) in live]


def _epoch(event: dict[str, Any]) -> int:
    epoch = event.get("epoch", 0)
    return epoch if isinstance(epoch, int) else 0


def _ended(told: dict[str, Any]) -> RunState:
    job = told.get("job", "the job")
    if told["event"] == FAILED:
        return RunState(name="failed", reason=str(told.get("reason", "")))
    if told["event"] == INTERRUPTED:
        return RunState(name="stopped", reason=f"{job} was interrupted; the same command resumes")
    return RunState(name="stopped", reason=f"{job} has ended")


def _going_on(events: Sequence[dict[str, Any]]) -> RunState:
    """Both sides are looked at: what a person has to know first comes first."""
    generation = events[_last_index(events, GENERATION_EVENT)]
    if generation["event"] != GENERATION_EVENT:
        generation = {}
    kind, reason = generation.get("state"), str(generation.get("reason", ""))
    if kind == "failed":
        return RunState(name="failed", reason=f"generation stopped: {reason}")
    if kind == "paused":
        return RunState(name="paused", reason=reason)
    if kind == "draining":
        number = generation.get("generators_draining", "?")
        return RunState(name="draining", reason=f"{number} generator(s) have to leave")
    trainer = [e for e in events if e["event"] in {PROGRESS_EVENT, TRAINER_STARVED_EVENT}]
    if trainer and trainer[-1]["event"] == TRAINER_STARVED_EVENT:
        last = trainer[-1]
        return RunState(
            name="starved",
            reason=f"training waits for synthetic samples: {last.get('found')} of "
            f"{last.get('wanted')} after {last.get('waited_s', 0):.0f} s",
        )
    if kind == "starved":
        return RunState(name="starved", reason=f"generators wait: {reason}")
    return RunState(name="running")


def _last_index(events: Sequence[dict[str, Any]], name: str) -> int:
    return next((i for i in range(len(events) - 1, -1, -1) if events[i]["event"] == name), 0)


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"])
