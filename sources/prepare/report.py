"""The report of a data set that was converted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    odd = _remarks(request, files, prepared)
    lines = describe_counts(prepared.tallies, depth_unit=layout.depth_unit)
    lines += ["", f"{len(odd)} remarks:" if odd else "nothing odd", *(f"- {text}" for text in odd)]
    if prepared.failures:
        lines += ["", f"failed samples ({len(prepared.failures)}, all in {MANIFEST_FILE}):"]
        lines += [f"- {key}: {detail}" for key, detail in prepared.failures[:_LISTED]]
    lines += ["", "to use it:", "source:", "  kind: shards", f"  root: {request.out}"]
    if files.num_classes:
        lines += ["method:", f"  num_classes: {files.num_classes}"]
    return lines


def as_json(request: PrepareRequest, files: LabelledFiles, prepared: Prepared) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "layout": request.layout,
        "root": str(request.root),
        "out": request.out,
        "tasks": list(files.tasks),
        "num_classes": files.num_classes,
        "splits": {
            split: {
                "images": tally.images,
                "failed": dict(tally.failed),
                "labels": {task: one.images for task, one in tally.tasks.items()},
            }
            for split, tally in prepared.tallies.items()
        },
        "remarks": _remarks(request, files, prepared),
        "failures": [{"key": key, "detail": detail} for key, detail in prepared.failures],
    }


def _remarks(request: PrepareRequest, files: LabelledFiles, prepared: Prepared) -> list[str]:
    """What is odd."""
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
    return odd
