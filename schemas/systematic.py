"""When failures are no longer those of single samples: one rule for every stage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

JUDGED_FROM = 16
"""So many samples must have been tried, or all there are, before a stage is judged."""

NEARLY_ALL = 0.9
"""Share of the tried samples that fail for one reason, from which the reason is the stage's."""


def systematic_reason(failed: Mapping[str, int], *, tried: int, total: int) -> str | None:
    """Find the reason for which (nearly) all samples fail.

    Args:
        failed: Samples that failed, by reason.
        tried: Samples tried so far, good ones too.
        total: Samples that the stage has.

    Returns:
        The reason; None as long as failures may be those of single samples.
    """
    if not failed or tried < min(JUDGED_FROM, total):
        return None
    reason = max(failed, key=lambda each: failed[each])
    return reason if failed[reason] >= NEARLY_ALL * tried else None


@dataclass(kw_only=True, slots=True)
class FailureTally:
    """Counts the samples of a stage until the rule can judge.

    Attributes:
        total: Samples that the stage has.
        tried: Samples added.
        failed: Those that failed, by reason.
        details: The first detail of each reason.
    """

    total: int
    tried: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str = "", detail: str = "") -> None:
        """Add a sample; without a reason it is a good one."""
        self.tried += 1
        if reason:
            self.failed[reason] += 1
            self.details.setdefault(reason, detail)

    def systematic(self) -> str:
        """Say for which reason (nearly) all fail; "" as long as that is not known."""
        reason = systematic_reason(self.failed, tried=self.tried, total=self.total)
        if reason is None:
            return ""
        count = f"{self.failed[reason]} of {self.tried}"
        return f"{count} fail the same way, {reason}: {self.details[reason]}"
