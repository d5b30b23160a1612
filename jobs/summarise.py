"""Compare finished runs, such as the same configuration under several seeds.

python jobs/summarise.py runs/seeds/0 runs/seeds/1 … [--task normals --metric mean_deg]
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.console import Console

from runs.command_line import run_job
from runs.results import read_results, summary_table
from schemas.errors import ConfigError
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


if __name__ == "__main__":
    run_job(main)
