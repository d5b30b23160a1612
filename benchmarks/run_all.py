"""All benchmarks, one after the other, each in a process of its own; one table at the end.

    python -m benchmarks.run_all --out bench.json

Figures are the lines of a benchmark that read ``name: value unit (aim: ...)`` or ``(no aim)``. The
exit code is 0 whatever they say, and 1 if a benchmark did not run to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {
    "halfway_batch": "--repeats 3",
    "generator": "--units 3",
    "train_step": "--steps 40",
    "publish_to_swap": "--repeats 5",
    "ods_f": "--maps 8",
}
TINY_OPTIONS = {
    "halfway_batch": "--repeats 1 --batch-size 2 --num-steps 2",
    "generator": "--units 1 --unit-size 2",
    "train_step": "--steps 1 --batch-size 2",
    "publish_to_swap": "--repeats 1 --synthetic-mb 1",
    "ods_f": "--maps 1 --size 48 64",
}
"""To see that all of them run; their figures mean nothing."""

FIGURE = re.compile(
    r"^(?P<name>\S.*): (?P<value>[\d.]+) ?(?P<unit>.*?) \((aim: (?P<aim>.*)|no aim)\)$"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A line of a benchmark; ``aim`` is empty if none was set."""

    name: str
    value: float
    unit: str
    aim: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A benchmark that was run.

    Attributes:
        command: Command line, to be run in the project's folder.
        exit_code: 0 if it ran to its end.
        wall_s: Seconds it took.
        load_average: Of the minute before it began; well above 0 means that it was not alone.
        figures: What it found.
        output: What it printed.
    """

    command: str
    exit_code: int
    wall_s: float
    load_average: float
    figures: list[Figure]
    output: str


def main() -> int:
    """Run everything; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run all benchmarks.")
    parser.add_argument("--only", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--tiny", action="store_true", help="at sizes that mean nothing")
    parser.add_argument("--out", type=Path, help="write the outcome to this JSON file")
    arguments = parser.parse_args()
    console = Console()
    outcomes = []
    for name in arguments.only:
        command = f"-m benchmarks.{name} {(TINY_OPTIONS if arguments.tiny else OPTIONS)[name]}"
        console.print(f"python {command}", highlight=False)
        outcomes.append(run(command))
        console.print(outcomes[-1].output, highlight=False, markup=False)
    console.print(table_of(outcomes))
    if arguments.out is not None:
        machine = {"machine": platform.machine(), "cpus": os.cpu_count()}
        tree = {**machine, "benchmarks": [asdict(outcome) for outcome in outcomes]}
        arguments.out.write_text(json.dumps(tree, indent=2) + "\n")
    return int(any(outcome.exit_code for outcome in outcomes))


def run(command: str) -> Outcome:
    """Run a benchmark to its end; its errors go to the terminal."""
    load_average, started = os.getloadavg()[0], time.monotonic()
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return Outcome(
        command=f"python {command}",
        exit_code=done.returncode,
        wall_s=round(time.monotonic() - started, 1),
        load_average=round(load_average, 2),
        figures=figures_of(done.stdout),
        output=done.stdout,
    )


def figures_of(output: str) -> list[Figure]:
    """Find the figures in what a benchmark printed."""
    found = filter(None, map(FIGURE.match, output.splitlines()))
    return [
        Figure(
            name=match["name"],
            value=float(match["value"]),
            unit=match["unit"],
            aim=match["aim"] or "",
        )
        for match in found
    ]


def table_of(outcomes: list[Outcome]) -> Table:
    """A section for each benchmark: its command, then a row for each figure."""
    table = Table("figure", "value", "aim")
    for outcome in outcomes:
        table.add_row(outcome.command, style="bold")
        for figure in outcome.figures:
            table.add_row(f"  {figure.name}", f"{figure.value:g} {figure.unit}", figure.aim)
        if outcome.exit_code:
            table.add_row("  failed", f"exit code {outcome.exit_code}", "")
        table.add_section()
    return table


if __name__ == "__main__":
    sys.exit(main())
