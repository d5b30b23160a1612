"""A committed unit: its rows, and what became of them in sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.manifest import ManifestRow
    from schemas.unit import Unit

OUTCOME_COLUMNS = (
    "unit_id",
    "attempt",
    "key",
    "status",
    "error_class",
    "creation_version",
    "tar_uri",
    "tar_sha256",
)
"""Columns of a manifest that an outcome is made from."""

_IN_SUMMARY = (
    *("attempt", "epoch", "worker", "creation_version", "creation_step", "counts", "filtered"),
    *("failed", "seconds", "taken_over", "tar_bytes"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitCommit:
    """A unit as it is committed.

    Attributes:
        unit: The unit as planned.
        rows: One row per sample, failed and filtered ones too.
        summary: JSON values about the whole: ``attempt`` (required: who made it), and the rest of
            :meth:`UnitOutcome.summary`.
    """

    unit: Unit
    rows: list[ManifestRow]
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def attempt(self) -> str:
        """The attempt that made it."""
        return str(self.summary["attempt"])


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitOutcome:
    """What became of a unit, whatever the number of its samples.

    Whoever commits the unit makes one from its rows, and every reader of the manifest makes an
    equal one. A run's driver and its trainers hold one for each unit.

    Attributes:
        unit_id: The unit.
        image_unit_id: The unit that made its images: itself or its parent.
        kind: ``synthesize`` or ``relabel``.
        round: Round of the unit.
        revision: Which revision.
        attempt: Name of the attempt that made it.
        epoch: Epoch of the driver that the attempt was made for; 0 if it took none.
        worker: Host and process that made it; empty if not known.
        counts: Rows by status; ``ok``, ``filtered`` and ``failed`` are always there.
        filtered: Filtered rows by error class.
        failed: Failed rows by error class.
        creation_version: Greatest version of creation weights that any row names; -1 without
            labels.
        creation_step: Training step behind that version.
        kept_by_version: Good rows by the version that labelled them.
        tar_uri: Where the good samples lie; empty if there are none.
        tar_sha256: Digest of that tar.
        tar_bytes: Its size; 0 if not known.
        seconds: Time by stage, and ``all``, where known.
        taken_over: Images that earlier attempts at the unit had made and stored.
        is_committed: Whether this is the visible attempt; False if another came first, and for a
            retry that was no better.
    """

    unit_id: str
    image_unit_id: str
    kind: str
    round: int
    revision: int = 0
    attempt: str = ""
    epoch: int = 0
    worker: str = ""
    counts: Mapping[str, int]
    filtered: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    creation_version: int = -1
    creation_step: int = 0
    kept_by_version: Mapping[int, int] = field(default_factory=dict)
    tar_uri: str = ""
    tar_sha256: str = ""
    tar_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    taken_over: int = 0
    is_committed: bool = True

    @property
    def num_samples(self) -> int:
        """All rows."""
        return sum(self.counts.values())

    @property
    def num_kept(self) -> int:
        """Good samples."""
        return self.counts.get("ok", 0)

    def summary(self) -> dict[str, Any]:
        """The part that the unit's manifest keeps beside unit and rows."""
        return {name: getattr(self, name) for name in _IN_SUMMARY}


def outcome_of(commit: UnitCommit) -> UnitOutcome:
    """Sum a unit up."""
    columns = _columns(commit.rows, OUTCOME_COLUMNS)
    return outcome_of_columns(commit.unit, commit.summary, columns)


def outcome_of_columns(
    unit: Unit, summary: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
) -> UnitOutcome:
    """Sum a unit up; what rows say counts, for they may have been marked since it was made.

    Args:
        summary: As :attr:`UnitCommit.summary`; of another version of the code, or by hand, it may
            lack anything but ``attempt``.
        columns: :data:`OUTCOME_COLUMNS` of its rows.
    """
    statuses, versions = columns["status"], columns["creation_version"]
    pairs = list(zip(statuses, columns["error_class"], strict=True))
    first = statuses.index("ok") if "ok" in statuses else -1
    return UnitOutcome(
        unit_id=unit.unit_id,
        image_unit_id=unit.image_unit_id,
        kind=unit.kind,
        round=unit.round,
        revision=unit.revision,
        attempt=summary["attempt"],
        epoch=int(summary.get("epoch", 0)),
        worker=summary.get("worker", ""),
        counts={"ok": 0, "filtered": 0, "failed": 0, **Counter(statuses)},
        filtered=dict(Counter(name for status, name in pairs if status == "filtered")),
        failed=dict(Counter(name for status, name in pairs if status == "failed")),
        creation_version=max(versions, default=-1),
        creation_step=int(summary.get("creation_step", 0)),
        kept_by_version=dict(
            Counter(v for v, status in zip(versions, statuses, strict=True) if status == "ok")
        ),
        tar_uri=columns["tar_uri"][first] if first >= 0 else "",
        tar_sha256=columns["tar_sha256"][first] if first >= 0 else "",
        tar_bytes=int(summary.get("tar_bytes", 0)),
        seconds=summary.get("seconds", {}),
        taken_over=int(summary.get("taken_over", 0)),
    )


def check_commit(commit: UnitCommit) -> None:
    """Check that rows, unit and summary belong together.

    Raises:
        ValueError: If the rows do not belong to the unit and the attempt, or a key comes twice.
    """
    expect_rows_fit(commit.unit, commit.summary, _columns(commit.rows, OUTCOME_COLUMNS[:3]))


def expect_rows_fit(
    unit: Unit, summary: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
) -> None:
    """As :func:`check_commit`, on columns.

    Raises:
        ValueError: If the rows do not belong to the unit and the attempt, or a key comes twice.
    """
    attempt, keys = summary.get("attempt"), columns["key"]
    if not attempt:
        raise ValueError(f"unit {unit.unit_id}: summary lacks 'attempt'; name who made it")
    found = set(zip(columns["unit_id"], columns["attempt"], strict=True))
    if found - {(unit.unit_id, attempt)}:
        raise ValueError(f"rows: wanted unit {unit.unit_id} attempt {attempt}, found {found}")
    if len(set(keys)) != len(keys):
        raise ValueError(f"unit {unit.unit_id}: a key comes twice among its rows; keys are unique")


def _columns(rows: Sequence[ManifestRow], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [getattr(row, name) for row in rows] for name in names}
