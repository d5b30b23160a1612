"""The outcome of an ablation: a table with mean and spread over seeds, and a plot."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from evaluation.measures import MEASURES
from evaluation.scores import HEADLINE_METRICS
from runs.results import COLUMNS, read_results, spread, spread_of_changes
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from experiments.ablation import Ablation, AblationRow
    from experiments.plan import AblationRun

Found = dict[tuple[str, int], dict[str, Any]]
"""Row and seed to content of results.json."""


def _read_found(runs: Sequence[AblationRun]) -> Found:
    """Read the results of all runs that have ended, of this call or earlier ones."""
    results = {(run.row, run.seed): read_results(open_store(run.config.run.url)) for run in runs}
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
    columns = COLUMNS[ablation.task]
    headers = [MEASURES[key].header for key in columns]
    head = ["row", "seeds", *headers, *_gain_header(ablation)]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in ablation.rows:
        ended = _scores_of(ablation, row, found)
        if ended:
            cells = [spread([one[key] for one in ended], MEASURES[key]) for key in columns]
            gain = _gain_cell(ablation, row, found)
            lines.append(_line([row.name, str(len(ended)), *cells, *gain]))
        if row.paper:
            cells = [format(row.paper[key], ".4g") if key in row.paper else "" for key in columns]
            lines.append(
                _line([f"*{row.name}, paper*", "", *(f"*{c}*" if c else "" for c in cells)])
            )
    return lines


def gains_pct(ablation: Ablation, row: AblationRow, found: Found) -> list[float]:
    """Relative gain of a row over the first one on the headline metric, seed by seed, in per cent.

    Positive is better. Seeds are paired: both runs of a pair start from the same draws.
    """
    headline = HEADLINE_METRICS[ablation.task]
    first = ablation.rows[0]
    gains = []
    for seed in ablation.seeds:
        ours, base = found.get((row.name, seed)), found.get((first.name, seed))
        if ours is None or base is None:
            continue
        before = _metrics(base, first, ablation)[headline.name]
        change = 100 * (_metrics(ours, row, ablation)[headline.name] / before - 1)
        gains.append(-change if headline.lower_is_better else change)
    return gains


def write_plot(ablation: Ablation, found: Found, path: Path) -> None:
    """Draw the headline metric of every row: a dot a seed, a bar at the mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    headline = HEADLINE_METRICS[ablation.task]
    rows = [row for row in ablation.rows if _scores_of(ablation, row, found)]
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(rows) + 1.4), layout="constrained")
    for place, row in enumerate(rows):
        values = [one[headline.name] for one in _scores_of(ablation, row, found)]
        axes.plot(values, [place] * len(values), "o", alpha=0.5, color="tab:blue")
        axes.plot([statistics.fmean(values)], [place], "|", markersize=24, color="black")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    direction = "lower" if headline.lower_is_better else "higher"
    header = MEASURES[headline.name].header
    axes.set_xlabel(f"{ablation.task} {header}, {direction} is better")
    axes.set_title(ablation.title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _scores_of(ablation: Ablation, row: AblationRow, found: Found) -> list[dict[str, float]]:
    ended = (found.get((row.name, seed)) for seed in ablation.seeds)
    return [_metrics(one, row, ablation) for one in ended if one is not None]


def _metrics(results: Mapping[str, Any], row: AblationRow, ablation: Ablation) -> dict[str, float]:
    metrics: dict[str, float] = results[row.result][ablation.task]
    return metrics


def _gain_header(ablation: Ablation) -> list[str]:
    return [f"against {ablation.rows[0].name}"]


def _gain_cell(ablation: Ablation, row: AblationRow, found: Found) -> list[str]:
    gains = gains_pct(ablation, row, found)
    if row is ablation.rows[0] or not gains:
        return [""]
    return [f"{spread_of_changes(gains)} %"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
