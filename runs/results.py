"""Scores of a run: results.json and the tables that show it."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from schemas.errors import DamagedShardError
from schemas.run_layout import RESULTS_FILE
from schemas.stages import RESULT_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.sample import Task
    from storage.files.stores import RunStore

COLUMNS: dict[Task, tuple[tuple[str, str, str], ...]] = {
    "normals": (
        ("mean_deg", "mean °", ".2f"),
        ("median_deg", "median °", ".2f"),
        ("rmse_deg", "RMSE °", ".2f"),
        ("pct_11_25", "% <11.25°", ".1f"),
        ("pct_22_5", "% <22.5°", ".1f"),
        ("pct_30", "% <30°", ".1f"),
    ),
    "depth": (("rmse_m", "RMSE m", ".3f"), ("abs_rel", "AbsRel", ".3f"), ("delta_1", "δ1", ".1%")),
    "semseg": (("miou", "mIoU", ".1%"), ("pixel_accuracy", "accuracy", ".1%")),
    "human_parts": (("miou", "mIoU", ".1%"), ("pixel_accuracy", "accuracy", ".1%")),
    "saliency": (("max_f", "maxF", ".1%"),),
    "boundaries": (("ods_f", "odsF", ".1%"),),
}
"""Task to its metrics, as key, header and format; the first is the one by which it is compared."""


def write_results(store: RunStore, results: Mapping[str, Any]) -> None:
    """Write results.json.

    Args:
        results: ``warm_up``, ``real_only_control`` and ``self_improved`` hold metrics by task;
            ``counts`` and ``seconds`` say what it took.
    """
    store.write_bytes(RESULTS_FILE, (json.dumps(results, indent=1) + "\n").encode())


def read_results(store: RunStore) -> dict[str, Any] | None:
    """Content of results.json; None if the run has not ended.

    Raises:
        DamagedShardError: If the file holds something else than :func:`write_results` writes.
    """
    if not store.exists(RESULTS_FILE):
        return None
    try:
        found = json.loads(store.read_bytes(RESULTS_FILE))
    except (ValueError, RecursionError) as error:
        raise DamagedShardError(_not_results(store, str(error))) from error
    rows = [found[row] for row in RESULT_ROWS if row in found] if isinstance(found, dict) else []
    if not rows or not all(isinstance(row, dict | None) for row in rows):
        raise DamagedShardError(_not_results(store, repr(found)[:80]))
    return dict(found)


def _not_results(store: RunStore, found: str) -> str:
    return (
        f"{store.uri(RESULTS_FILE)}: wanted the scores of a run, found {found}; remove the file, "
        "and the command that the run was started with scores the run again"
    )


def relative_gain(results: Mapping[str, Any], task: str, metric: str) -> float | None:
    """How much lower ``self_improved`` is than ``real_only_control``, as a share of the latter."""
    control = results.get("real_only_control")
    if not control:
        return None
    before = float(control[task][metric])
    return (before - float(results["self_improved"][task][metric])) / before


def gain_lines(results: Mapping[str, Any]) -> list[str]:
    """Change of each task's headline metric against the real-only control; none without one."""
    lines = []
    for task in results.get("real_only_control") or ():
        metric, header, _ = COLUMNS[task][0]
        gain = relative_gain(results, task, metric) or 0.0
        lines.append(f"{task} {header} against the real-only control: {0.0 - 100 * gain:+.1f} %")
    return lines


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
        columns = COLUMNS[task]
        table = narrow_table(
            "weights", *(header for _, header, _ in columns), title=f"{task}, {title}"
        )
        for name, found in scores.items():
            table.add_row(name, *(format(found[task][key], form) for key, _, form in columns))
        tables.append(Padding(table, (0, 0, 1, 0)))
    return Group(*tables)


def summary_table(
    names: Sequence[str], results: Sequence[Mapping[str, Any]], *, task: str, metric: str
) -> Table:
    """A row of ``metric`` for each run, their mean and spread, and the gain over the control."""
    rows = [row for row in RESULT_ROWS if all(one.get(row) for one in results)]
    table = narrow_table("run", *rows, "gain %", title=f"{task} {metric}, test split")
    columns: list[list[float]] = [[] for _ in range(len(rows) + 1)]
    for name, one in zip(names, results, strict=True):
        values = [float(one[row][task][metric]) for row in rows]
        gain = relative_gain(one, task, metric)
        values.append(float("nan") if gain is None else 100 * gain)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        table.add_row(name, *(f"{value:.2f}" for value in values))
    table.add_section()
    table.add_row("mean ± std", *(spread(column) for column in columns))
    return table


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean ± standard deviation of a sample; the mean alone if there is one value."""
    mean = format(statistics.fmean(values), form)
    if len(values) < 2:
        return mean
    deviation = statistics.stdev(values)
    if form.endswith("%"):
        return f"{mean} ± {100 * deviation:.1f}"
    return f"{mean} ± {format(deviation, form)}"
