"""What a run needs to know of a committed unit, whatever the number of its samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from schemas.unit import Unit
    from storage.manifests.file import UnitCommit

BRIEF_COLUMNS = (
    "unit_id",
    "attempt",
    "key",
    "status",
    "error_class",
    "creation_version",
    "tar_uri",
    "tar_sha256",
)
"""Columns of a manifest that a brief is made from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitBrief:
    """A committed unit without its rows: a run's driver and its trainers hold one for each unit.

    Attributes:
        unit_id: The unit.
        image_unit_id: The unit that made its images: itself or its parent.
        kind: ``synthesize`` or ``relabel``.
        round: Round of the unit.
        revision: Which revision.
        num_samples: Its rows.
        counts: Rows by status.
        filtered: Filtered rows by error class.
        failed: Failed rows by error class.
        version: Greatest version of creation weights that any row names; -1 without labels.
        kept_by_version: Good rows by the version that labelled them.
        tar_uri: Where the good samples lie; empty if there are none.
        tar_sha256: Digest of that tar.
        tar_bytes: Its size; 0 if not known.
        seconds: Time by stage, and ``all``, where known.
    """

    unit_id: str
    image_unit_id: str
    kind: str
    round: int
    revision: int
    num_samples: int
    counts: Mapping[str, int]
    filtered: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    version: int
    kept_by_version: Mapping[int, int]
    tar_uri: str = ""
    tar_sha256: str = ""
    tar_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_kept(self) -> int:
        """Good samples."""
        return self.counts.get("ok", 0)


def brief_of(commit: UnitCommit) -> UnitBrief:
    """Leave out a unit's rows."""
    rows = commit.rows
    columns = {name: [getattr(row, name) for row in rows] for name in BRIEF_COLUMNS}
    return brief_of_columns(commit.unit, commit.summary, columns)


def brief_of_columns(
    unit: Unit, summary: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
) -> UnitBrief:
    """Sum a unit's rows up.

    Args:
        unit: The unit.
        summary: As :attr:`storage.manifests.file.UnitCommit.summary`.
        columns: :data:`BRIEF_COLUMNS` of its rows.
    """
    statuses, versions = columns["status"], columns["creation_version"]
    pairs = list(zip(statuses, columns["error_class"], strict=True))
    first = statuses.index("ok") if "ok" in statuses else -1
    return UnitBrief(
        unit_id=unit.unit_id,
        image_unit_id=unit.image_unit_id,
        kind=unit.kind,
        round=unit.round,
        revision=unit.revision,
        num_samples=len(statuses),
        counts=dict(Counter(statuses)),
        filtered=dict(Counter(name for status, name in pairs if status == "filtered")),
        failed=dict(Counter(name for status, name in pairs if status == "failed")),
        version=max(versions, default=-1),
        kept_by_version=dict(
            Counter(v for v, status in zip(versions, statuses, strict=True) if status == "ok")
        ),
        tar_uri=columns["tar_uri"][first] if first >= 0 else "",
        tar_sha256=columns["tar_sha256"][first] if first >= 0 else "",
        tar_bytes=int(summary.get("tar_bytes", 0)),
        seconds=summary.get("seconds", {}),
    )


def expect_rows_fit(
    unit: Unit, summary: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
) -> None:
    """As :func:`storage.manifests.file.check_commit`, on columns.

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
