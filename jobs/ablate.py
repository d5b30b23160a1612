"""Run an ablation: rows of one table over seeds, on this machine; the same command resumes.

python jobs/ablate.py --config configs/ablations/table1_rooms.yaml [--processes 2] [--rows NAME …]

Rows that share a warm-up or the first round of images make it once. Each row and seed is a complete
run in a directory of its own, with its config.resolved.yaml; a row with scored_with scores the run
of another row and trains nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from experiments.ablation import Ablation, load_ablation
from experiments.plan import AblationRun, expect_tasks, plan_ablation
from experiments.run import make_runs
from experiments.table import report
from runs.checks.start import expect_startable
from runs.command_line import run_job
from runs.generation import plan_of
from runs.results import read_results
from runs.state import ALL_ROLES
from schemas.config_file import dump_config
from schemas.errors import ConfigError, RunFailedError, UserError
from sources.open import open_run_source
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sources.report.data_report import DataReport


def main(arguments: Sequence[str]) -> None:
    """Run what the command line asks for, then print and write the table.

    Raises:
        RunFailedError: If runs failed; the table holds the others.
    """
    parsed = _parse(arguments)
    ablation = load_ablation(parsed.config)
    _expect_rows(ablation, parsed.rows)
    runs = plan_ablation(
        ablation, parsed.root, rows=parsed.rows, seeds=parsed.seeds, overrides=parsed.set
    )
    console = Console()
    if not (parsed.table_only or parsed.show):
        expect_tasks(ablation, runs)
        _expect_startable(runs)
    if parsed.dry_run or parsed.show:
        for run in runs:
            what = "" if run.scored_as is None else f", scored into {run.results_file}"
            console.print(
                f"# {run.row}, seed {run.seed}: {run.config.run.url}{what}", soft_wrap=True
            )
            if parsed.show:
                sys.stdout.write(dump_config(run.scored_as or run.config))
        return
    failures = [] if parsed.table_only else make_runs(runs, parsed.processes, console)
    planned = plan_ablation(ablation, parsed.root, overrides=parsed.set)
    report(ablation, planned, Path(parsed.out or f"{parsed.root}/{ablation.name}"), console)
    if failures:
        raise RunFailedError("\n".join(failures))


def _expect_rows(ablation: Ablation, wanted: Sequence[str]) -> None:
    known = [row.name for row in ablation.rows]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"--rows {unknown}: the ablation has {known}")


def _expect_startable(runs: Sequence[AblationRun]) -> None:
    """Check the first run of each row as a dry run does, but for those that have ended.

    Raises:
        ConfigError: If one cannot be started.
    """
    reports: dict[str, DataReport] = {}
    first: dict[str, AblationRun] = {}
    for run in runs:
        first.setdefault(run.row, run)
    for run in {run.config.run.url: run for run in first.values()}.values():
        # The row that it learns from is made first.
        training = run.config.training.model_copy(update={"synthetic_run": None})
        config = run.config.model_copy(update={"training": training})
        store = open_store(config.run.url)
        if read_results(store) is not None:
            continue
        looked_at = repr((config.source, config.method.tasks, config.model))
        try:
            source = open_run_source(config)
            found = expect_startable(
                config,
                store,
                source,
                roles=ALL_ROLES,
                plan=plan_of(config, source),
                on_ray=False,
                report=reports.get(looked_at),
            )
        except UserError as error:
            raise ConfigError(f"row {run.row!r}: {error}") from error
        reports[looked_at] = found.report


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run an ablation over seeds into a table.")
    parser.add_argument("--config", required=True, help="YAML of an ablation (configs/ablations/)")
    parser.add_argument("--root", default="runs/ablations", help="folder of all runs")
    parser.add_argument("--rows", nargs="+", default=[], help="only these rows")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="only these seeds")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--out", help="folder of table and plot; default: beside the runs")
    parser.add_argument("--table-only", action="store_true", help="run nothing, make the table")
    parser.add_argument(
        "--show", action="store_true", help="print the runs' complete configurations, run nothing"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_job(main)
