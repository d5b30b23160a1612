"""Run an ablation: rows of one table over seeds, on this machine; the same command resumes.

python jobs/ablate.py --config configs/ablations/table1_rooms.yaml [--processes 2] [--rows NAME …]

Rows that share a warm-up or the first round of images make it once. Each row and seed is a complete
run in a directory of its own, with its config.resolved.yaml.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from experiments.ablation import Ablation, load_ablation
from experiments.plan import AblationRun, plan_ablation
from experiments.run import make_images, make_run, make_warm_up
from experiments.table import Found, table_lines, write_plot
from runs.checks import expect_models
from runs.command_line import run_job
from runs.results import read_results
from schemas.config_file import dump_config
from schemas.errors import ConfigError, RunFailedError, UserError
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from schemas.config import RunConfig


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
    if parsed.dry_run or parsed.show:
        for run in runs:
            console.print(f"# {run.row}, seed {run.seed}: {run.config.run.url}", soft_wrap=True)
            if parsed.show:
                sys.stdout.write(dump_config(run.config))
        return
    expect_models(runs[0].config)
    failures = [] if parsed.table_only else make_runs(runs, parsed.processes, console)
    planned = plan_ablation(ablation, parsed.root, overrides=parsed.set)
    report(ablation, planned, Path(parsed.out or f"{parsed.root}/{ablation.name}"), console)
    if failures:
        raise RunFailedError("\n".join(failures))


def make_runs(runs: Sequence[AblationRun], processes: int, console: Console) -> list[str]:
    """Make the shared beginnings, then the runs, several at a time.

    Returns:
        A line for each run that failed; the others are not held up.
    """
    distinct = {run.config.run.url: run for run in runs}.values()
    open_runs = [run for run in distinct if read_results(open_store(run.config.run.url)) is None]
    warm_ups = _distinct(run.warm_up for run in open_runs)
    images = {run.images.run.url: run for run in open_runs if run.images}
    # Processes are spawned: a fork would copy torch's thread pools in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        phases: list[dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]] = [
            {f"warm-up {c.run.url}": (make_warm_up, (c,)) for c in warm_ups},
            {f"images {u}": (make_images, (r.images, r.warm_up)) for u, r in images.items()},
            {_name(r): (make_run, (r,)) for r in open_runs if not r.needs_donor},
            {_name(r): (make_run, (r,)) for r in open_runs if r.needs_donor},
        ]
        failures: list[str] = []
        for phase in phases:
            futures = {pool.submit(work, *given): name for name, (work, given) in phase.items()}
            failures += _collect(futures, console)
    return failures


def _name(run: AblationRun) -> str:
    return f"{run.row}, seed {run.seed}"


def _collect(futures: dict[Future[Any], str], console: Console) -> list[str]:
    failures = []
    started_s = time.monotonic()
    for done, future in enumerate(as_completed(futures), start=1):
        name = futures[future]
        try:
            future.result()
        except (UserError, RunFailedError, OSError) as error:
            failures.append(f"{name}: {error}")
            console.print(f"[red]failed[/red] {name}: {error}", soft_wrap=True)
            continue
        elapsed_s = time.monotonic() - started_s
        console.print(f"{elapsed_s:6.0f} s  {done}/{len(futures)}  {name}", soft_wrap=True)
    return failures


def read_found(runs: Sequence[AblationRun]) -> Found:
    """Read the results of all runs that have ended, of this call or earlier ones."""
    results = {(run.row, run.seed): read_results(open_store(run.config.run.url)) for run in runs}
    return {which: found for which, found in results.items() if found is not None}


def report(ablation: Ablation, runs: Sequence[AblationRun], folder: Path, console: Console) -> None:
    """Print the table; write ``table.md``, ``table.json`` and ``plot.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    found = read_found(runs)
    lines = table_lines(ablation, found)
    console.print("\n".join([ablation.title, *lines]), soft_wrap=True, markup=False)
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    rows = [
        {"row": run.row, "seed": run.seed, "run": run.config.run.url, **found[run.row, run.seed]}
        for run in runs
        if (run.row, run.seed) in found
    ]
    (folder / "table.json").write_text(json.dumps(rows, indent=1) + "\n")
    if found:
        write_plot(ablation, found, folder / "plot.png")
        console.print(f"plot: {folder / 'plot.png'}", soft_wrap=True)


def _distinct(configs: Iterable[RunConfig]) -> list[RunConfig]:
    return list({config.run.url: config for config in configs}.values())


def _expect_rows(ablation: Ablation, wanted: Sequence[str]) -> None:
    known = [row.name for row in ablation.rows]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"--rows {unknown}: the ablation has {known}")


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
