"""The whole loop: caption, warm up, generate and learn side by side, score, and show the result.

    python jobs/self_improve.py --config configs/rooms_demo.yaml

The same command resumes a run that was interrupted; storage is the truth about what is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from runs.checks.models import expect_models
from runs.checks.plan import expect_enough_samples
from runs.command_line import config_from, make_parser, run_job
from runs.directory import claim_run_directory, resumed_config
from runs.driving import driving
from runs.generation import describe_plan, plan_of
from runs.loop import run_loop
from runs.results import classes_table, gain_lines, read_results, scores_table
from schemas.run_layout import CONTACT_SHEET_FILE, RESULTS_FILE
from schemas.stages import RESULT_ROWS
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Run the loop that the command line describes, and show scores and where the results are."""
    parsed = make_parser("Run the self-improving loop.").parse_args(arguments)
    config = config_from(parsed)
    expect_models(config)
    console = Console()
    store = open_store(config.run.url)
    config = resumed_config(store, config)
    plan = plan_of(config)
    expect_enough_samples(config, plan)
    if parsed.dry_run:
        for line in describe_plan(config, plan, store):
            console.print(line)
        return
    claim_run_directory(store, config)
    results = read_results(store)
    if results:
        console.print(f"{config.run.url}: this run has ended; its results:")
    else:
        with driving(store, job="self_improve", roles=("generate", "train")) as lock:
            results = run_loop(config, lock, console)
    scores: dict[str, Any] = {row: results[row] for row in RESULT_ROWS if results.get(row)}
    console.print(scores_table(scores, title="test split"))
    console.print(classes_table(results.get("iou_per_class", {}), title="test split"))
    for line in gain_lines(results):
        console.print(line, highlight=False)
    console.print(f"results: {store.uri(RESULTS_FILE)}")
    console.print(f"contact sheet: {store.uri(CONTACT_SHEET_FILE)}")


if __name__ == "__main__":
    run_job(main)
