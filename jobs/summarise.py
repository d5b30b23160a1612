"""Compare finished runs, such as the same configuration under several seeds.

python jobs/summarise.py runs/seeds/0 runs/seeds/1 … [--task depth] [--metric abs_rel] [--json]

Every task of the runs gets a table: a row a run, then mean and standard deviation. Runs that differ
in more than run.seed are shown without a mean, and the fields that differ are named.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from runs.command_line import run_job
from runs.summary import (
    as_json,
    compare,
    read_finished,
    run_lines,
    summary_table,
    unequal_fields,
    warning_lines,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Print a table for each task, or JSON."""
    parsed = _parse(arguments)
    runs = read_finished(parsed.runs)
    unequal = unequal_fields(runs)
    compared = compare(runs, task=parsed.task, metric=parsed.metric)
    if parsed.json:
        print(json.dumps(as_json(runs, compared, unequal), indent=1))
        return
    console = Console(highlight=False)
    for line in run_lines(runs):
        console.print(line, markup=False, soft_wrap=True)
    for one in compared:
        console.print()
        console.print(summary_table(one, are_equal=not unequal))
    for line in warning_lines(runs, unequal):
        console.print(Text(line, style="bold red"), soft_wrap=True)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare finished runs.")
    parser.add_argument("runs", nargs="+", help="run directories that hold results.json")
    parser.add_argument("--task", help="only this task; default: all")
    parser.add_argument("--metric", help="instead of the one by which the task is compared")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_job(main)
