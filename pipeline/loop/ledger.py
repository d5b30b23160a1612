"""Who works on which unit: the plan against what storage shows, rebuilt at every start."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.loop.capacity import PlanState, pace_of, should_stop
from pipeline.loop.plan import MeasuredCost
from pipeline.loop.unit_queue import UnitQueue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from schemas.config import RunConfig
    from schemas.unit import Unit
    from schemas.weights import WeightsManifest
    from storage.manifests.unit_outcome import UnitOutcome


@dataclass(kw_only=True, slots=True)
class Totals:
    """Sums over committed units.

    Attributes:
        units: Committed units of the plan.
        statuses: Samples by status.
        reasons: Filtered and failed samples by error class.
        versions: Kept samples by the version that labelled them.
        seconds: Generator seconds by unit kind, of the units whose time is known.
        samples: Samples by unit kind, of the same units.
        label_s: Seconds spent on labelling and encoding in those units.
        tar_bytes: Bytes of all shards.
    """

    units: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    samples: Counter[str] = field(default_factory=Counter)
    label_s: float = 0.0
    tar_bytes: int = 0

    def add(self, outcome: UnitOutcome) -> None:
        """Add a unit."""
        self.units += 1
        self.statuses.update(outcome.counts)
        self.reasons.update(outcome.filtered)
        self.reasons.update(outcome.failed)
        self.versions.update(outcome.kept_by_version)
        self.tar_bytes += outcome.tar_bytes
        if "all" in outcome.seconds:
            kind = outcome.kind
            self.seconds[kind] = self.seconds.get(kind, 0.0) + outcome.seconds["all"]
            self.samples[kind] += outcome.num_samples
            self.label_s += outcome.seconds.get("labels", 0.0) + outcome.seconds.get("encode", 0.0)

    def cost(self) -> MeasuredCost:
        """What a sample has cost so far."""
        per_kind = {kind: total / self.samples[kind] for kind, total in self.seconds.items()}
        measured, kept = self.samples.total(), self.statuses["ok"]
        return MeasuredCost(
            seconds_per_image=per_kind.get("synthesize"),
            seconds_per_label=self.label_s / measured if measured else None,
            bytes_per_sample=self.tar_bytes / kept if kept else None,
        )


class UnitLedger:
    """The plan's units: committed, leased, remaining; attempts and recent failures.

    What it keeps of a committed unit is its part in some sums, and what it costs to ask or tell
    it something does not grow with the plan. Not safe for use by several threads.

    Args:
        history: Units committed before this process started; their failures are not judged again.
    """

    def __init__(
        self, config: RunConfig, plan: Sequence[Unit], history: Iterable[UnitOutcome] = ()
    ) -> None:
        self._limits = config.generation
        self.pace = pace_of(config, plan)
        self.totals = Totals()
        self._num_units = len(plan)
        self._queue = UnitQueue(plan)
        self._num_leased = 0
        self._leased_samples = 0
        self._attempts: Counter[str] = Counter()
        self._committed_samples = 0
        self._window_units = min(self._limits.failure_window_units, max(len(plan), 1))
        self._window: deque[UnitOutcome] = deque(maxlen=self._window_units)
        self.absorb(history)
        self._window.clear()

    @property
    def num_units(self) -> int:
        """Units of the plan."""
        return self._num_units

    @property
    def num_leased(self) -> int:
        """Units that are worked on."""
        return self._num_leased

    def absorb(self, outcomes: Iterable[UnitOutcome]) -> list[Unit]:
        """Take note of committed units; those of another plan or an older revision are ignored.

        Returns:
            The plan's units among them that were open until now.
        """
        found = []
        for outcome in outcomes:
            unit = self._queue.get(outcome.unit_id)
            if unit is not None and outcome.revision >= unit.revision:
                self._absorb(unit, outcome)
                found.append(unit)
        return found

    def is_open(self, unit: Unit) -> bool:
        """Whether a unit is not committed yet."""
        return self._queue.get(unit.unit_id) is not None

    def lease(self, unit: Unit) -> int:
        """Note that a unit is worked on.

        Returns:
            The number of this attempt, from 1.
        """
        if self._queue.lease(unit):
            self._num_leased += 1
            self._leased_samples += unit.num_samples
        return self._attempts[unit.unit_id] + 1

    def release(self, unit: Unit) -> None:
        """Note that nobody works on a unit any more; it remains if it is not committed."""
        if self._queue.release(unit):
            self._num_leased -= 1
            self._leased_samples -= unit.num_samples

    def count_failure(self, unit: Unit) -> bool:
        """Count a failed attempt.

        Returns:
            Whether the unit may be tried again.
        """
        self._attempts[unit.unit_id] += 1
        return self._attempts[unit.unit_id] < self._limits.max_attempts

    def state(self, newest: WeightsManifest | None, *, weights_final: bool) -> PlanState:
        """What a decision is made from.

        Args:
            newest: The newest published version, if there is one.
        """
        version = None if newest is None else newest.version
        return PlanState(
            num_remaining=len(self._queue) - self._num_leased,
            next_ready=self._queue.first_ready(version),
            num_leased=self._num_leased,
            committed_samples=self._committed_samples,
            leased_samples=self._leased_samples,
            newest_version=version,
            seen_images=0 if newest is None else newest.seen_images,
            weights_final=weights_final,
            stop_reason=self._stop_reason(),
        )

    def _stop_reason(self) -> str:
        # Few units are looked at: the window is as long as generation.failure_window_units.
        found = should_stop(
            tuple(self._window),
            max_failed_fraction=self._limits.max_failed_fraction,
            window_units=self._window_units,
        )
        return found or ""

    def _absorb(self, unit: Unit, outcome: UnitOutcome) -> None:
        if self._queue.remove(unit):
            self._num_leased -= 1
            self._leased_samples -= unit.num_samples
        self._attempts.pop(unit.unit_id, None)
        self._committed_samples += unit.num_samples
        self._queue.note_labels(
            unit.image_unit_id, round_index=unit.round, version=outcome.creation_version
        )
        self._window.append(outcome)
        self.totals.add(outcome)
