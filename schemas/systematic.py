"""When failures are no longer those of single samples: one rule for every stage."""

from __future__ import annotations

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
