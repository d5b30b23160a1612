"""Who works on which unit: the plan against what storage shows, rebuilt at every start."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.capacity import PlanState, UnitOutcome, pace_of, should_stop
from pipeline.plan import MeasuredCost, image_maker_id
from pipeline.result import count_reasons, count_statuses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from schemas.unit import Unit
    from schemas.weights import WeightsManifest
    from storage.manifest_table import UnitCommit


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

    def add(self, commit: UnitCommit) -> None:
        """Add a unit."""
        self.units += 1
        self.statuses.update(count_statuses(commit.rows))
        self.reasons.update(count_reasons(commit.rows, statuses=("filtered", "failed")))
        self.versions.update(row.creation_version for row in commit.rows if row.status == "ok")
        self.tar_bytes += int(commit.summary.get("tar_bytes", 0))
        seconds: dict[str, float] = commit.summary.get("seconds", {})
        if "all" in seconds:
            kind = commit.unit.kind
            self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds["all"]
            self.samples[kind] += len(commit.rows)
            self.label_s += seconds.get("labels", 0.0) + seconds.get("encode", 0.0)

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

    Not safe for use by several threads.

    Args:
        config: The run's configuration.
        plan: All its units.
        history: Commits from before this process started; their failures are not judged again.
    """

    def __init__(
        self, config: RunConfig, plan: Sequence[Unit], history: Sequence[UnitCommit] = ()
    ) -> None:
        self._limits = config.generation
        self.pace = pace_of(config, plan)
        self.totals = Totals()
        self._plan = {unit.unit_id: unit for unit in plan}
        self._open = dict(self._plan)
        self._leased: set[str] = set()
        self._attempts: Counter[str] = Counter()
        self._newest_labels: dict[str, tuple[int, int]] = {}
        self._committed_samples = 0
        self._window_units = min(self._limits.failure_window_units, max(len(plan), 1))
        self._window: deque[UnitOutcome] = deque(maxlen=self._window_units)
        self.absorb(history)
        self._window.clear()

    @property
    def num_units(self) -> int:
        """Units of the plan."""
        return len(self._plan)

    @property
    def num_leased(self) -> int:
        """Units that are worked on."""
        return len(self._leased)

    def absorb(self, commits: Sequence[UnitCommit]) -> list[Unit]:
        """Take note of committed units; those of another plan or an older revision are ignored.

        Returns:
            The plan's units among them that were open until now.
        """
        return [commit.unit for commit in commits if self._absorb(commit)]

    def is_open(self, unit: Unit) -> bool:
        """Whether a unit is not committed yet."""
        return unit.unit_id in self._open

    def lease(self, unit: Unit) -> int:
        """Note that a unit is worked on.

        Returns:
            The number of this attempt, from 1.
        """
        self._leased.add(unit.unit_id)
        return self._attempts[unit.unit_id] + 1

    def release(self, unit: Unit) -> None:
        """Note that nobody works on a unit any more; it remains if it is not committed."""
        self._leased.discard(unit.unit_id)

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
            weights_final: Whether no further version will come.
        """
        leased = [self._open[unit_id] for unit_id in self._leased if unit_id in self._open]
        return PlanState(
            remaining=[u for unit_id, u in self._open.items() if unit_id not in self._leased],
            newest_labels=self._newest_labels,
            num_leased=len(self._leased),
            committed_samples=self._committed_samples,
            leased_samples=sum(unit.num_samples for unit in leased),
            newest_version=None if newest is None else newest.version,
            seen_images=0 if newest is None else newest.seen_images,
            weights_final=weights_final,
            stop_reason=self._stop_reason(),
        )

    def _stop_reason(self) -> str:
        found = should_stop(
            tuple(self._window),
            max_failed_fraction=self._limits.max_failed_fraction,
            window_units=self._window_units,
        )
        return found or ""

    def _absorb(self, commit: UnitCommit) -> bool:
        unit = self._open.get(commit.unit.unit_id)
        if unit is None or commit.unit.revision < unit.revision:
            return False
        del self._open[unit.unit_id]
        self._leased.discard(unit.unit_id)
        self._committed_samples += unit.num_samples
        maker = image_maker_id(unit)
        version = max((row.creation_version for row in commit.rows), default=-1)
        # A unit that failed as a whole has no labels: those before it stay the newest.
        last_round, last_version = self._newest_labels.get(maker, (-1, -1))
        self._newest_labels[maker] = (max(unit.round, last_round), max(version, last_version))
        errors = count_reasons(commit.rows, statuses=("failed",))
        self._window.append(UnitOutcome(num_samples=len(commit.rows), errors=errors))
        self.totals.add(commit)
        return True
