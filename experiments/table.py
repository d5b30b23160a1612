"""The outcome of an ablation: a table with mean and spread over seeds, and a plot."""

from __future__ import annotations

import json
import math
import statistics
from typing import TYPE_CHECKING, Any

from evaluation.measures import MEASURES
from evaluation.scores import HEADLINE_METRICS, multi_task_gain_pct
from runs.results import COLUMNS, read_results, spread, spread_of_changes
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from evaluation.scores import Scores
    from experiments.ablation import Ablation, AblationRow
    from experiments.plan import AblationRun
    from schemas.sample import Task

Found = dict[tuple[str, int], dict[str, Any]]
"""Row and seed to content of results.json, or of the row's file of scores."""

_SIZES = {"parameters": "parameters, M", "multiply_adds": "multiply-adds, M"}
"""What ``experiments.size`` counts, in millions, to its column."""


def _read_found(runs: Sequence[AblationRun]) -> Found:
    """Read the results of all runs that have ended, of this call or earlier ones."""
    results = {
        (run.row, run.seed): read_results(open_store(run.config.run.url), file=run.results_file)
        for run in runs
    }
    return {which: found for which, found in results.items() if found is not None}


def report(ablation: Ablation, runs: Sequence[AblationRun], folder: Path, console: Console) -> None:
    """Print the table; write ``table.md``, ``table.json`` and ``plot.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    found = _read_found(runs)
    lines = table_lines(ablation, found)
    console.print("\n".join([ablation.title, *lines]), soft_wrap=True, markup=False)
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [
        {"row": run.row, "seed": run.seed, "run": run.config.run.url, **found[run.row, run.seed]}
        for run in runs
        if (run.row, run.seed) in found
    ]
    (folder / "table.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if found:
        write_plot(ablation, found, folder / "plot.png")
        console.print(f"plot: {folder / 'plot.png'}", soft_wrap=True)


def table_lines(ablation: Ablation, found: Found) -> list[str]:
    """Markdown table: a line for each row, mean ± standard deviation over the seeds that ended.

    The paper's figures stand below ours where a row has any; they come from other data and other
    models, so only their order can be compared.
    """
    columns = _columns(ablation)
    counted = {name for results in found.values() for name in results.get("size", {})}
    sizes = [name for name in _SIZES if name in counted]
    head = ["row", "seeds", *_headers(ablation), _gain_header(ablation)]
    head += [_SIZES[name] for name in sizes]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in ablation.rows:
        ended = _scores_of(ablation, row, found)
        if ended:
            cells = [_spread([one.get(task) for one in ended], key) for task, key in columns]
            gain = _gain_cell(ablation, row, found)
            size = [_size_cell(ablation, row, found, name) for name in sizes]
            lines.append(_line([row.name, str(len(ended)), *cells, gain, *size]))
        if row.paper:
            cells = [_paper_cell(ablation, row, *column) for column in columns]
            lines.append(_line([f"*{row.name}, paper*", "", *cells]))
    return lines


def gains_pct(ablation: Ablation, row: AblationRow, found: Found) -> list[float]:
    """Δm of a row, seed by seed, in per cent: see :func:`multi_task_gain_pct`.

    Of one task it is the relative gain on the headline metric. Seeds are paired: the runs that are
    compared start from the same draws. A row that lacks a task of the table has none.
    """
    compared = ablation.compared_with(row)
    rows = {each.name: each for each in ablation.rows}
    gains = []
    for seed in ablation.seeds:
        ours = _scores(found, row, seed)
        base = {task: _scores(found, rows[name], seed).get(task) for task, name in compared.items()}
        before = {task: metrics for task, metrics in base.items() if metrics is not None}
        if all(task in ours and task in before for task in ablation.tasks):
            gains.append(_gain_pct({task: ours[task] for task in before}, before))
    return gains


def _gain_pct(ours: Scores, base: Scores) -> float:
    try:
        return multi_task_gain_pct(ours, base)
    except ZeroDivisionError:
        # A model that has learnt next to nothing may have an mIoU of 0.
        return math.nan


def write_plot(ablation: Ablation, found: Found, path: Path) -> None:
    """Draw the headline metric of every task and row: a dot a seed, a bar at the mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in ablation.rows if _scores_of(ablation, row, found)]
    width = 7 if len(ablation.tasks) == 1 else 3 + 3 * len(ablation.tasks)
    figure, grid = pyplot.subplots(
        1,
        len(ablation.tasks),
        figsize=(width, 0.5 * len(rows) + 1.4),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for axes, task in zip(grid[0], ablation.tasks, strict=True):
        headline = HEADLINE_METRICS[task]
        for place, row in enumerate(rows):
            ended = [one[task] for one in _scores_of(ablation, row, found) if task in one]
            values = [metrics[headline.name] for metrics in ended]
            axes.plot(values, [place] * len(values), "o", alpha=0.5, color="tab:blue")
            if values:
                mean = statistics.fmean(values)
                axes.plot([mean], [place], "|", markersize=24, color="black")
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        direction = "lower" if headline.lower_is_better else "higher"
        axes.set_xlabel(f"{task} {MEASURES[headline.name].header}, {direction} is better")
        axes.grid(axis="x", alpha=0.3)
    if len(ablation.tasks) == 1:
        grid[0][0].set_title(ablation.title, fontsize=10)
    else:
        figure.suptitle(ablation.title, fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _columns(ablation: Ablation) -> list[tuple[Task, str]]:
    """Task and metric of each column."""
    if len(ablation.tasks) == 1:
        return [(ablation.tasks[0], key) for key in COLUMNS[ablation.tasks[0]]]
    return [(task, HEADLINE_METRICS[task].name) for task in ablation.tasks]


def _headers(ablation: Ablation) -> list[str]:
    columns = _columns(ablation)
    if len(ablation.tasks) == 1:
        return [MEASURES[key].header for _, key in columns]
    return [f"{task} {MEASURES[key].header}" for task, key in columns]


def _scores(found: Found, row: AblationRow, seed: int) -> Scores:
    """Task to metrics of a row; empty if its run has not ended."""
    scores: Scores = found.get((row.name, seed), {}).get(row.result, {})
    return scores


def _scores_of(ablation: Ablation, row: AblationRow, found: Found) -> list[Scores]:
    every = (_scores(found, row, seed) for seed in ablation.seeds)
    return [scores for scores in every if scores]


def _spread(metrics: Sequence[Mapping[str, float] | None], key: str) -> str:
    """Mean and deviation of a metric; nothing for a task that the row does not predict."""
    values = [one[key] for one in metrics if one is not None]
    return spread(values, MEASURES[key]) if values else ""


def _paper_cell(ablation: Ablation, row: AblationRow, task: Task, key: str) -> str:
    figure = row.paper.get(key if len(ablation.tasks) == 1 else task)
    return "" if figure is None else f"*{figure:.4g}*"


def _gain_header(ablation: Ablation) -> str:
    if ablation.baseline or any(row.against for row in ablation.rows):
        return "Δm"
    return f"against {ablation.rows[0].name}"


def _gain_cell(ablation: Ablation, row: AblationRow, found: Found) -> str:
    gains = gains_pct(ablation, row, found)
    if row.name in ablation.compared_with(row).values() or not gains:
        return ""
    over = "" if row.against is None else f" over {row.against}"
    return f"{spread_of_changes(gains)} %{over}"


def _size_cell(ablation: Ablation, row: AblationRow, found: Found, name: str) -> str:
    """A count in millions; those of all seeds are equal."""
    sizes = (found.get((row.name, seed), {}).get("size", {}) for seed in ablation.seeds)
    counts = [size[name] for size in sizes if name in size]
    if not counts:
        return ""
    millions = counts[0] / 1e6
    return f"{millions:.0f}" if millions >= 100 else f"{millions:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
