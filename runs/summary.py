"""Finished runs beside each other: equal ones with mean and spread, unequal ones without."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evaluation.measures import MEASURES, decimals_for, signed
from runs.directory import read_config
from runs.results import COLUMNS, cell, narrow_table, read_results
from schemas.config_base import values_of
from schemas.errors import ConfigError
from schemas.stages import RESULT_ROWS
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from evaluation.measures import Measure
    from schemas.config import RunConfig
    from schemas.sample import Task
    from schemas.stages import ResultRow

_BEFORE: ResultRow = "real_only_control"
_AFTER: ResultRow = "self_improved"
_SEED = "run.seed"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """A run that has its scores.

    Attributes:
        url: Its directory, as it was named.
        config: Its configuration.
        results: Content of its results.json.
    """

    url: str
    config: RunConfig
    results: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One metric of one task over several runs.

    Attributes:
        task: The task.
        metric: Key of the metric.
        values: Row of results.json to a value for each run; rows that all runs have.
        gains: Of each run, self_improved over real_only_control in per cent, positive is better;
            empty if a run has no control.
    """

    task: Task
    metric: str
    values: dict[ResultRow, list[float]]
    gains: list[float]

    @property
    def measure(self) -> Measure:
        """How the metric is shown."""
        return MEASURES[self.metric]

    @property
    def differences(self) -> list[float]:
        """self_improved minus real_only_control of each run, in the unit that is shown."""
        if not self.gains:
            return []
        pairs = zip(self.values[_BEFORE], self.values[_AFTER], strict=True)
        return [self.measure.factor * (after - before) for before, after in pairs]


def read_finished(urls: Sequence[str]) -> list[FinishedRun]:
    """Read runs that have ended.

    Raises:
        ConfigError: If one has no results yet, or is named twice.
    """
    runs: dict[str, FinishedRun] = {}
    for url in urls:
        store = open_store(url)
        if store.url in runs:
            raise ConfigError(f"{url}: named twice; name each run once")
        results = read_results(store)
        if results is None:
            raise ConfigError(f"{url}: no results.json; finish the run with jobs/self_improve.py")
        runs[store.url] = FinishedRun(url=url, config=read_config(store), results=results)
    return list(runs.values())


def unequal_fields(runs: Sequence[FinishedRun]) -> dict[str, list[Any]]:
    """Fields that decide results, but for the seed, that differ: a value for each run.

    None stands for a field that a kind of source does not have.
    """
    science = [
        {path: value for path, kind, value in values_of(run.config) if kind == "science"}
        for run in runs
    ]
    paths = dict.fromkeys(path for each in science for path in each if path != _SEED)
    found = {path: [each.get(path) for each in science] for path in paths}
    return {path: values for path, values in found.items() if any(v != values[0] for v in values)}


def compare(
    runs: Sequence[FinishedRun], *, task: str | None = None, metric: str | None = None
) -> list[Compared]:
    """Put the scores of runs beside each other, task by task.

    Args:
        task: Only this one; every task that all runs have if None.
        metric: Instead of the one by which the task is compared.

    Raises:
        ConfigError: If the runs have no such task or metric in common.
    """
    tasks = [each for each in COLUMNS if all(each in _tasks_of(run) for run in runs)]
    wanted = [each for each in tasks if task in {None, each}]
    if not wanted:
        raise ConfigError(
            f"--task {task or ''}: not a task of all these runs; common to them: "
            f"{', '.join(tasks) or 'none: name runs of the same tasks'}"
        )
    if metric is None:
        return [_compare(runs, each, COLUMNS[each][0]) for each in wanted]
    known = {each: _metrics_of(runs, each) for each in wanted}
    if not any(metric in metrics for metrics in known.values()):
        choice = dict.fromkeys(name for metrics in known.values() for name in metrics)
        raise ConfigError(
            f"--metric {metric}: no metric of {', '.join(wanted)} in all these runs; choose among "
            f"{', '.join(choice)}"
        )
    return [_compare(runs, each, metric) for each in wanted if metric in known[each]]


def _tasks_of(run: FinishedRun) -> set[str]:
    return {task for row in RESULT_ROWS for task in run.results.get(row) or ()}


def _rows_of(runs: Sequence[FinishedRun]) -> list[ResultRow]:
    return [row for row in RESULT_ROWS if all(run.results.get(row) for run in runs)]


def _metrics_of(runs: Sequence[FinishedRun], task: Task) -> list[str]:
    """Metrics that all runs have."""
    found = [run.results[row].get(task, {}) for run in runs for row in _rows_of(runs)]
    return [name for name in MEASURES if found and all(name in each for each in found)]


def _compare(runs: Sequence[FinishedRun], task: Task, metric: str) -> Compared:
    rows = _rows_of(runs)
    values = {row: [float(run.results[row][task][metric]) for run in runs] for row in rows}
    pairs = zip(values.get(_BEFORE, []), values.get(_AFTER, []), strict=False)
    gains = [MEASURES[metric].gain_pct(before, after) for before, after in pairs]
    whole = [gain for gain in gains if gain is not None]
    return Compared(
        task=task, metric=metric, values=values, gains=whole if len(whole) == len(runs) else []
    )


def summary_table(one: Compared, *, are_equal: bool) -> Table:
    """A row for each run by its number from 1, then mean and spread where the runs are equal.

    Args:
        are_equal: Whether the runs differ in the seed alone.
    """
    measure = one.measure
    direction = "lower" if measure.lower_is_better else "higher"
    unit = measure.difference_unit
    more = (f"difference{f' {unit}' if unit else ''}", "gain %") if one.gains else ()
    table = narrow_table(
        "run",
        *one.values,
        *more,
        title=f"{one.task} {measure.header}, {direction} is better, test split",
    )
    runs = range(len(next(iter(one.values.values()))))
    for index in runs:
        cells = [cell(values[index], measure) for values in one.values.values()]
        changes = [signed(column[index], least=least) for column, least in _changes(one)]
        table.add_row(str(index + 1), *cells, *changes)
    if are_equal and len(runs) > 1:
        table.add_section()
        for name, of in (("mean", statistics.fmean), ("± std", statistics.stdev)):
            cells = [cell(of(values), measure) for values in one.values.values()]
            changes = [
                signed(statistics.fmean(column), least=least)
                if name == "mean"
                else f"{of(column):.{decimals_for(statistics.fmean(column), least=least)}f}"
                for column, least in _changes(one)
            ]
            table.add_row(name, *cells, *changes)
    return table


def _changes(one: Compared) -> list[tuple[list[float], int]]:
    """Differences and gains, each with the decimals it is shown with at least."""
    return [(one.differences, one.measure.decimals), (one.gains, 1)] if one.gains else []


def run_lines(runs: Sequence[FinishedRun]) -> list[str]:
    """Which run has which number, with its seed."""
    return [
        f"{number}: {run.url} (seed {run.config.run.seed})" for number, run in enumerate(runs, 1)
    ]


def warning_lines(runs: Sequence[FinishedRun], unequal: dict[str, list[Any]]) -> list[str]:
    """Say why the runs are not averaged, or what is odd about their mean; empty if nothing is."""
    if unequal:
        lines = [f"  {path}: {', '.join(map(repr, values))}" for path, values in unequal.items()]
        return [
            "no mean: these runs have different configurations, in the order above",
            *lines,
            "name runs that differ in run.seed alone to have their mean",
        ]
    seeds = [run.config.run.seed for run in runs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    return [f"seed {seed}: more than one run; the spread is too small" for seed in twice]


def as_json(
    runs: Sequence[FinishedRun], compared: Sequence[Compared], unequal: dict[str, list[Any]]
) -> dict[str, Any]:
    """The same as JSON values; ``mean`` and ``std`` are None where the runs are unequal."""
    return {
        "runs": [{"run": run.url, "seed": run.config.run.seed} for run in runs],
        "unequal": unequal,
        "scores": [
            {
                "task": one.task,
                "metric": one.metric,
                "lower_is_better": one.measure.lower_is_better,
                "rows": {
                    row: _numbers(values, are_equal=not unequal)
                    for row, values in one.values.items()
                },
                "gain_pct": _numbers(one.gains, are_equal=not unequal) if one.gains else None,
            }
            for one in compared
        ],
    }


def _numbers(values: Sequence[float], *, are_equal: bool) -> dict[str, Any]:
    has_spread = are_equal and len(values) > 1
    return {
        "values": list(values),
        "mean": statistics.fmean(values) if are_equal else None,
        "std": statistics.stdev(values) if has_spread else None,
    }
