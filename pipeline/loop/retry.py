"""Plan committed units again whose samples failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from schemas.manifest import ManifestRow
    from schemas.unit import Unit
    from storage.manifests.unit_outcome import UnitCommit

PARENT_FIRST = "its images failed, too: retry the unit that made them first"
TORN = "manifest_torn"
IMAGES_GONE = "the images it would label were removed by jobs/gc.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPlan:
    """What a retry would do.

    Attributes:
        units: Units to make again, each as the revision after the one that stands.
        reasons: Samples to be made again that had fallen out, by reason, and torn manifests.
        left_out: Units with such samples that cannot be retried now, and why.
    """

    units: tuple[Unit, ...] = ()
    reasons: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)


def plan_retry(
    commits: Sequence[UnitCommit],
    *,
    reasons: Collection[str] = (),
    unit_ids: Collection[str] = (),
    torn: Sequence[Unit] = (),
) -> RetryPlan:
    """Choose the units to make again: a pure function of what is committed.

    Args:
        reasons: Retry units with samples that failed or were filtered for one of these reasons;
            empty: with any failed sample.
        unit_ids: Retry these alone, whatever became of their samples; empty: all.
        torn: Units whose newest manifest cannot be read, each as that revision; they are made
            again unless ``reasons`` asks for others.

    Returns:
        The plan, in the order of rounds and ids.
    """
    by_id = {commit.unit.unit_id: commit for commit in commits}
    named = [unit for unit in torn if unit.unit_id in unit_ids or not (unit_ids or reasons)]
    units = [replace(unit, revision=unit.revision + 1) for unit in named]
    torn_ids = {unit.unit_id for unit in named}
    counted: Counter[str] = Counter({TORN: len(units)} if units else {})
    left_out: dict[str, str] = {}
    for commit in sorted(commits, key=lambda c: (c.unit.round, c.unit.unit_id)):
        unit = commit.unit
        if unit.unit_id in torn_ids or (unit_ids and unit.unit_id not in unit_ids):
            continue
        wanted = [row for row in commit.rows if _is_wanted(row, reasons)]
        if not wanted and not unit_ids:
            continue
        obstacle = _obstacle(unit, wanted or commit.rows, by_id)
        if obstacle:
            left_out[unit.unit_id] = obstacle
            continue
        units.append(replace(unit, revision=unit.revision + 1))
        counted.update(row.error_class for row in wanted)
    units.sort(key=lambda unit: (unit.round, unit.unit_id))
    return RetryPlan(units=tuple(units), reasons=counted, left_out=left_out)


def _is_wanted(row: ManifestRow, reasons: Collection[str]) -> bool:
    if reasons:
        return row.status in {"failed", "filtered"} and row.error_class in reasons
    return row.status == "failed"


def _obstacle(unit: Unit, rows: Sequence[ManifestRow], by_id: Mapping[str, UnitCommit]) -> str:
    """Why a unit cannot be retried: labelling again needs images; empty if it can."""
    if unit.kind != "relabel":
        return ""
    parent = by_id.get(unit.parent_unit_id)
    wanted = {row.key for row in rows}
    found = {row.status for row in parent.rows if row.key in wanted} if parent else set()
    if "ok" in found:
        return ""
    return IMAGES_GONE if "collected" in found else PARENT_FIRST
