"""Decide what is worked on next and when to stop: pure functions of what storage shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from schemas.systematic import JUDGED_FROM, systematic_reason
from schemas.text import number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from schemas.unit import Unit
    from storage.manifests.unit_outcome import UnitOutcome

NEWER_WEIGHTS_WANTED = "newer creation weights"
"""How the reason begins for which generators wait until training publishes."""

DecisionKind = Literal["lease", "waiting", "starved", "paused", "finished", "failed"]

_TOP_ERRORS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast generation may run, in samples; constant over a run.

    Attributes:
        max_lead: Rounds that generation may run ahead of training.
        samples_per_round: Samples that a round of the plan makes when none fails.
        images_per_round: Images that training sees while the loop does one round.
    """

    max_lead: int
    samples_per_round: int
    images_per_round: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanState:
    """What is known at the moment of a decision.

    Attributes:
        num_remaining: Units that are neither committed nor leased.
        next_ready: The first of them in plan order that :func:`pipeline.loop.unit_queue.is_ready`
            says may be worked on; None if there is none.
        num_leased: Units that a generator holds.
        committed_samples: Samples of committed units, failed ones counted.
        leased_samples: Samples of leased units.
        newest_version: Newest published creation weights; None before the first.
        seen_images: Images that training had seen at that version.
        weights_final: No further version will come: capacity does not matter any more, and what
            needs newer weights than there are is left out.
        stop_reason: Why the run must stop; empty if it need not.
    """

    num_remaining: int
    next_ready: Unit | None = None
    num_leased: int = 0
    committed_samples: int = 0
    leased_samples: int = 0
    newest_version: int | None = None
    seen_images: int = 0
    weights_final: bool = False
    stop_reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do now.

    ``lease``: work on ``unit``. ``waiting``: leased units have to come back first. ``starved``:
    nothing is leased and nothing can be until training publishes. ``finished``: all that can be
    made is committed. ``failed``: too much went wrong. ``paused``: the user wants no unit begun.
    """

    kind: DecisionKind
    reason: str
    unit: Unit | None = None


def pace_of(config: RunConfig, plan: Sequence[Unit]) -> Pace:
    """Derive the pace from a run's configuration and plan."""
    stage = config.training.self_improve
    return Pace(
        max_lead=config.generation.max_lead,
        samples_per_round=sum(unit.num_samples for unit in plan if unit.round == 0),
        images_per_round=-(-stage.steps * stage.batch_size // config.plan.rounds),
    )


def lease_capacity(
    pace: Pace, *, rounds_trained: int, committed_samples: int, leased_samples: int
) -> int:
    """Samples that may still be leased (the staleness bound of asynchronous training loops).

    ``(max_lead + rounds_trained + 1) · samples_per_round − (committed + leased)``. All terms come
    from storage, so that a resumed run has the capacity that it had.

    Returns:
        The capacity; zero or less means that training has to catch up first.
    """
    allowed = (pace.max_lead + rounds_trained + 1) * pace.samples_per_round
    return allowed - (committed_samples + leased_samples)


def choose_next_unit(state: PlanState, pace: Pace) -> Decision:
    """Choose the first unit of the plan that is ready, if there is capacity for it."""
    if state.stop_reason:
        return Decision(kind="failed", reason=state.stop_reason)
    if not state.num_remaining:
        return _ending(state)
    if state.newest_version is None:
        return _pause(state, "no creation weights are published yet")
    if state.next_ready is None:
        return _blocked(state)
    too_far = "" if state.weights_final else _lead_exceeded(state, pace)
    if too_far:
        return _pause(state, too_far)
    return Decision(kind="lease", reason="", unit=state.next_ready)


def _ending(state: PlanState) -> Decision:
    if state.num_leased:
        return _pause(state, "the last units are being worked on")
    return Decision(kind="finished", reason="every unit of the plan is committed")


def _lead_exceeded(state: PlanState, pace: Pace) -> str:
    rounds_trained = state.seen_images // pace.images_per_round
    capacity = lease_capacity(
        pace,
        rounds_trained=rounds_trained,
        committed_samples=state.committed_samples,
        leased_samples=state.leased_samples,
    )
    if capacity > 0:
        return ""
    return (
        f"generation is {number_of(pace.max_lead, 'round')} ahead of training, which has done "
        f"{rounds_trained}; raise generation.max_lead to run further ahead"
    )


def _blocked(state: PlanState) -> Decision:
    if state.weights_final and not state.num_leased:
        return Decision(
            kind="finished",
            reason=f"{number_of(state.num_remaining, 'unit')} left out: "
            "no newer creation weights will come",
        )
    return _pause(
        state, f"{NEWER_WEIGHTS_WANTED} than version {state.newest_version} are needed to relabel"
    )


def _pause(state: PlanState, reason: str) -> Decision:
    return Decision(kind="waiting" if state.num_leased else "starved", reason=reason)


def should_stop(
    window: Sequence[UnitOutcome], *, max_failed_fraction: float, window_units: int
) -> str | None:
    """Look for a run that mostly fails.

    Half of the window is enough where (nearly) all samples fail for one reason.

    Args:
        window: Outcomes of the most recent units, at most ``window_units``.
        max_failed_fraction: Greatest share of failed samples that is borne, in [0, 1].
        window_units: Units that must have come back before the share is judged.

    Returns:
        Why the run should stop, with the most frequent errors; None if it need not.
    """
    if len(window) <= window_units // 2:
        return None
    errors: Counter[str] = Counter()
    for outcome in window:
        errors.update(outcome.failed)
    total = sum(outcome.num_samples for outcome in window)
    failed = errors.total()
    if not total or failed / total <= max_failed_fraction:
        return None
    is_early = len(window) < window_units
    if is_early and systematic_reason(errors, tried=total, total=JUDGED_FROM) is None:
        return None
    named = ", ".join(f"{name} ({count})" for name, count in errors.most_common(_TOP_ERRORS))
    return (
        f"{failed} of {total} samples of the last {len(window)} units failed, more than "
        f"generation.max_failed_fraction = {max_failed_fraction:g}: {named}"
    )
