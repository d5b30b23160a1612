"""The report of a data set that was converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sources.layouts.registry import find_layout
from sources.report.oddities import Expected, describe_counts, describe_oddities
from sources.shard_folder import MANIFEST_FILE

if TYPE_CHECKING:
    from sources.layouts.protocol import LabelledFiles
    from sources.prepare.prepare import Prepared, PrepareRequest

_LISTED = 10


def describe(request: PrepareRequest, files: LabelledFiles, prepared: Prepared) -> list[str]:
    """Lines that say what was found, what is odd, and how to use the result."""
    layout = find_layout(request.layout)
    expected = Expected(
        official_counts={} if request.limit else layout.official_counts,
        official_size=layout.official_size,
        num_classes=files.num_classes,
        class_names=files.class_names,
        size=request.size,
        signs=request.options.signs,
        depth_unit=layout.depth_unit,
    )
    odd = [*files.notes, *describe_oddities(prepared.tallies, expected)]
    odd += [
        f"{one} and {other} are the same image; one must not be learnt from and scored: take one "
        "out of its list"
        for one, other in prepared.duplicates[:_LISTED]
    ]
    lines = describe_counts(prepared.tallies, depth_unit=layout.depth_unit)
    lines += ["", f"{len(odd)} remarks:" if odd else "nothing odd", *(f"- {text}" for text in odd)]
    if prepared.failures:
        lines += ["", f"failed samples ({len(prepared.failures)}, all in {MANIFEST_FILE}):"]
        lines += [f"- {key}: {detail}" for key, detail in prepared.failures[:_LISTED]]
    lines += ["", "to use it:", "source:", "  kind: shards", f"  root: {request.out}"]
    if files.num_classes:
        lines += ["method:", f"  num_classes: {files.num_classes}"]
    return lines
