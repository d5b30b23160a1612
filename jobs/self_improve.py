"""The whole loop: caption, warm up, generate and learn side by side, score, and show the result.

    python jobs/self_improve.py --config configs/rooms_demo.yaml

The same command resumes a run that was interrupted; storage is the truth about what is done.
"""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.console import Console

from runs.checks.start import expect_startable
from runs.command_line import config_from, make_parser, run_job, show
from runs.data_report import keep_data_report
from runs.directory import claim_run_directory, describe_replacement, resumed_config
from runs.driving import driving
from runs.generation import describe_plan, plan_of
from runs.loop import run_loop
from runs.results import classes_table, gain_lines, read_results, scores_table
from runs.state import ALL_ROLES
from runs.training import describe_stage
from schemas.run_layout import CONTACT_SHEET_FILE, RESULTS_FILE
from schemas.stages import RESULT_ROWS
from sources.open import open_run_source
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Run the loop that the command line describes, and show scores and where the results are."""
    parsed = make_parser("Run the self-improving loop.").parse_args(arguments)
    config = config_from(parsed)
    console = Console()
    store = open_store(config.run.url)
    config = resumed_config(store, config)
    results = read_results(store)
    if parsed.dry_run or not results:
        source = open_run_source(config)
        plan = plan_of(config, source)
        found = expect_startable(
            config, store, source, roles=ALL_ROLES, plan=plan, is_dry=parsed.dry_run
        )
        show(console, describe_replacement(store, config), found.lines())
    if parsed.dry_run:
        show(console, describe_plan(config, plan, store, image_size=source.image_size))
        if config.training.creator is not None:
            show(console, describe_stage(config, "creator"))
        return
    claim_run_directory(store, config)
    if results:
        ended = f"{config.run.url}: this run has ended; its results:"
        console.print(ended, soft_wrap=True, markup=False)
    else:
        keep_data_report(store, found.report)
        with driving(store, job="self_improve", roles=ALL_ROLES) as lock:
            results = run_loop(config, lock, console)
    scores: dict[str, Any] = {row: results[row] for row in RESULT_ROWS if results.get(row)}
    console.print(scores_table(scores, title="test split"))
    console.print(classes_table(results.get("iou_per_class", {}), title="test split"))
    for line in gain_lines(results):
        console.print(line, highlight=False, soft_wrap=True)
    for what, file in (("results", RESULTS_FILE), ("contact sheet", CONTACT_SHEET_FILE)):
        console.print(f"{what}: {store.uri(file)}", soft_wrap=True, markup=False)
    following = (
        "one seed proves no small difference: run others, compare them with jobs/summarise.py",
        f"next: python jobs/predict.py --run {quote(store.url)} FOLDER; docs/first-day.md",
    )
    show(console, following)


if __name__ == "__main__":
    run_job(main)
