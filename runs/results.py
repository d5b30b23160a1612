"""Scores of a run: results.json and the tables that show it."""

from __future__ import annotations

import json
import math
import statistics
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from evaluation.measures import MEASURES, decimals_for
from schemas.errors import DamagedShardError
from schemas.run_layout import RESULTS_FILE
from schemas.stages import RESULT_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluation.measures import Measure
    from schemas.sample import Task
    from storage.files.stores import RunStore

COLUMNS: dict[Task, tuple[str, ...]] = {
    "normals": ("mean_deg", "median_deg", "rmse_deg", "pct_11_25", "pct_22_5", "pct_30"),
    "depth": ("rmse_m", "abs_rel", "delta_1"),
    "semseg": ("miou", "mean_accuracy", "pixel_accuracy"),
    "human_parts": ("miou", "mean_accuracy", "pixel_accuracy"),
    "saliency": ("max_f", "mae"),
    "boundaries": ("ods_f",),
}
"""Task to the metrics that tables show; the first is the one by which it is compared."""


def write_results(store: RunStore, results: Mapping[str, Any], *, file: str = RESULTS_FILE) -> None:
    """Write results.json, or another file of its form.

    Args:
        results: ``warm_up``, ``real_only_control`` and ``self_improved`` hold metrics by task;
            ``iou_per_class`` likewise that of each class; ``counts`` and ``seconds`` say what it
            took.
    """
    store.write_bytes(file, (json.dumps(results, indent=1) + "\n").encode())


def read_results(store: RunStore, *, file: str = RESULTS_FILE) -> dict[str, Any] | None:
    """Content of results.json, or of another file of its form; None if there is none yet.

    Raises:
        DamagedShardError: If the file holds something else than :func:`write_results` writes.
    """
    if not store.exists(file):
        return None
    try:
        found = json.loads(store.read_bytes(file))
    except (ValueError, RecursionError) as error:
        raise DamagedShardError(_not_results(store, file, str(error))) from error
    rows = [found[row] for row in RESULT_ROWS if row in found] if isinstance(found, dict) else []
    if not rows or not all(isinstance(row, dict | None) for row in rows):
        raise DamagedShardError(_not_results(store, file, repr(found)[:80]))
    return dict(found)


def _not_results(store: RunStore, file: str, found: str) -> str:
    return (
        f"{store.uri(file)}: wanted the scores of a run, found {found}; remove the file, "
        "and the command that the run was started with scores the run again"
    )


def gain_lines(results: Mapping[str, Any]) -> list[str]:
    """Each task's headline metric against the real-only control; none without one."""
    lines = []
    for task in results.get("real_only_control") or ():
        metric = COLUMNS[task][0]
        measure = MEASURES[metric]
        before, after = (
            float(results[row][task][metric]) for row in ("real_only_control", "self_improved")
        )
        gain = measure.gain_pct(before, after)
        share = "" if not gain else f" ({in_per_cent(abs(gain))} {_better(gain)})"
        lines.append(
            f"{task} {measure.name}: {measure.text(after)} against {measure.text(before)} of the "
            f"real-only control: {measure.difference(before, after)}{share}"
        )
    return lines


def in_per_cent(value: float) -> str:
    """A share in per cent with digits enough that a small one is not hidden."""
    return f"{value:.{decimals_for(value, least=1)}f} %"


def _better(gain: float) -> str:
    return "better" if gain > 0 else "worse"


def narrow_table(*headers: str, title: str | None = None) -> Table:
    """A table without edges whose first column is wrapped and whose others are never cut."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.add_column(headers[0], overflow="fold")
    for header in headers[1:]:
        table.add_column(header, no_wrap=True, justify="right")
    return table


def scores_table(scores: Mapping[str, Mapping[Task, Mapping[str, float]]], *, title: str) -> Group:
    """A table for each task with a row for each set of weights, in at most 80 columns."""
    tables = []
    for task in next(iter(scores.values())):
        measures = {key: MEASURES[key] for key in COLUMNS[task]}
        table = narrow_table(
            "weights", *(each.header for each in measures.values()), title=f"{task}, {title}"
        )
        for name, found in scores.items():
            # A file of an earlier version may lack a metric.
            known = {key: float(found[task].get(key, math.nan)) for key in measures}
            table.add_row(name, *(cell(known[key], each) for key, each in measures.items()))
        tables.append(Padding(table, (0, 0, 1, 0)))
    return Group(*tables)


def classes_table(
    found: Mapping[str, Mapping[Task, Mapping[str, float | None]]], *, title: str
) -> Group:
    """A table for each task with classes, with a row for each class that occurs or is predicted.

    Args:
        found: Weights to task to class to intersection over union.
    """
    tables = []
    for task in next(iter(found.values()), {}):
        table = narrow_table(f"{task} IoU", *found, title=f"{task} classes, {title}")
        for name in next(iter(found.values()))[task]:
            values = [scores[task].get(name) for scores in found.values()]
            if any(value is not None for value in values):
                table.add_row(name, *("–" if v is None else f"{v:.1%}" for v in values))
        tables.append(Padding(table, (0, 0, 1, 0)))
    return Group(*tables)


def cell(value: float, measure: Measure) -> str:
    """A value in a column whose header has the unit; per cent stand in the cell."""
    text = measure.text(value)
    return text if measure.unit == "%" else text.removesuffix(measure.unit).rstrip()


def spread(values: Sequence[float], measure: Measure) -> str:
    """Mean ± standard deviation of a sample; the mean alone if there is one value."""
    mean = cell(statistics.fmean(values), measure)
    if len(values) < 2:
        return mean
    return f"{mean} ± {measure.factor * statistics.stdev(values):.{measure.decimals}f}"


def spread_of_changes(values: Sequence[float], *, least: int = 1) -> str:
    """The same for signed numbers, with digits enough that a small mean is not hidden."""
    mean = statistics.fmean(values)
    decimals = decimals_for(mean, least=least)
    if len(values) < 2:
        return f"{mean:+.{decimals}f}"
    return f"{mean:+.{decimals}f} ± {statistics.stdev(values):.{decimals}f}"
