"""Compare finished runs, such as the same configuration under several seeds.

python jobs/summarise.py runs/seeds/0 runs/seeds/1 … [--task normals --metric mean_deg]
"""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from runs.command_line import run_job
from runs.results import read_results, relative_gain
from schemas.errors import ConfigError
from schemas.stages import RESULT_ROWS
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Print a table: a row per run, then mean and standard deviation.

    Raises:
        ConfigError: If a run has no results yet.
    """
    parser = argparse.ArgumentParser(description="Compare finished runs.")
    parser.add_argument("runs", nargs="+", help="run directories that hold results.json")
    parser.add_argument("--task", default="normals")
    parser.add_argument("--metric", default="mean_deg", help="lower is better")
    parsed = parser.parse_args(arguments)
    found: list[dict[str, Any]] = []
    for url in parsed.runs:
        results = read_results(open_store(url))
        if results is None:
            raise ConfigError(f"{url}: no results.json; finish the run with jobs/self_improve.py")
        found.append(results)
    Console().print(summary_table(parsed.runs, found, task=parsed.task, metric=parsed.metric))


def summary_table(
    names: Sequence[str], results: Sequence[dict[str, Any]], *, task: str, metric: str
) -> Table:
    """Rows of ``metric`` for each run and set of weights, and the gain over the control."""
    rows = [row for row in RESULT_ROWS if all(one.get(row) for one in results)]
    table = Table("run", *rows, "gain %", title=f"{task} {metric}, test split")
    columns: list[list[float]] = [[] for _ in range(len(rows) + 1)]
    for name, one in zip(names, results, strict=True):
        values = [float(one[row][task][metric]) for row in rows]
        gain = relative_gain(one, task, metric)
        values.append(float("nan") if gain is None else 100 * gain)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        table.add_row(name, *(f"{value:.2f}" for value in values))
    table.add_section()
    table.add_row("mean ± std", *(_spread(column) for column in columns))
    return table


def _spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.2f} ± {deviation:.2f}"


if __name__ == "__main__":
    run_job(main)
