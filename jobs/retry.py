"""Make units again whose samples failed: degraded ones, those that failed whole, quarantined keys.

Units whose manifest cannot be read are made again, too.

    python jobs/retry.py RUN --dry-run
    python jobs/retry.py RUN [--reasons out_of_memory decode_failed] [--units ID ...] [--local]

A retried unit is a new revision of itself: it replaces what stood only if more of its samples
became good, or if what stood is damaged. Samples that screening dropped are retried only where
``--reasons`` names their reason. The creation weights are the newest, or ``--weights VERSION``.
Exit code 1 if some of the samples have failed again.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console

from runs.command_line import run_job
from runs.directory import read_config
from runs.retry import describe_retry, plan_of_retry, retry
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Retry what the command line names."""
    parsed, console = _parse(arguments), Console(highlight=False, soft_wrap=True)
    store = open_store(parsed.run)
    config = read_config(store)
    plan = plan_of_retry(store, config, reasons=parsed.reasons, unit_ids=parsed.units)
    for line in describe_retry(plan):
        console.print(line)
    if plan.units and not parsed.dry_run:
        retry(
            store,
            config,
            plan,
            reasons=parsed.reasons,
            version=parsed.weights,
            is_local=parsed.local,
            console=console,
        )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make units again whose samples failed.")
    parser.add_argument("run", help="run directory, local or a URL")
    parser.add_argument(
        "--reasons", nargs="+", default=[], help="reasons that jobs/status.py lists; default: all"
    )
    parser.add_argument("--units", nargs="+", default=[], help="these units, whatever they hold")
    parser.add_argument("--weights", type=int, metavar="VERSION", help="label with this version")
    parser.add_argument("--local", action="store_true", help="in this process, no Ray")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_job(main)
