"""Train one stage of a run, on Ray or in this process; generation is another job's business.

    python jobs/train.py --config configs/rooms_demo.yaml --stage warm_up

The same command resumes a stage that was interrupted; ``self_improve`` learns from the synthetic
samples that are in the run directory and from those that appear there meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from rich.console import Console

from runs.checks.start import expect_startable
from runs.command_line import config_from, make_parser, run_job, show
from runs.data_report import keep_data_report
from runs.directory import claim_run_directory, describe_replacement, resumed_config
from runs.driving import driving
from runs.progress import validation_rows
from runs.training import describe_stage, expect_stage, train
from schemas.stages import Stage
from sources.open import open_run_source
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.records.run_lock import Role

ROLES: tuple[Role, ...] = ("train",)


def main(arguments: Sequence[str]) -> None:
    """Train the stage that the command line names."""
    parser = make_parser("Train one stage of a run.")
    parser.add_argument("--stage", choices=get_args(Stage), required=True, help="what to train")
    parser.add_argument("--local", action="store_true", help="train in this process, without Ray")
    parsed = parser.parse_args(arguments)
    config, stage = config_from(parsed), parsed.stage
    console, store = Console(), open_store(config.run.url)
    config = resumed_config(store, config)
    source = open_run_source(config)
    remarks = expect_stage(config, stage, store, source)
    found = expect_startable(
        config, store, source, roles=ROLES, on_ray=not parsed.local, is_dry=parsed.dry_run
    )
    warnings = [f"warning: {text}" for text in remarks]
    show(console, describe_replacement(store, config), found.lines(), warnings)
    if parsed.dry_run:
        show(console, describe_stage(config, stage))
        return
    claim_run_directory(store, config)
    keep_data_report(store, found.report)
    with driving(store, job=f"train --stage {stage}", roles=ROLES) as lock:
        ended = train(config, stage, lock, is_local=parsed.local, console=console)
    for name in ("step", "seen_images", "seconds", "steps_per_s", "version"):
        if ended.get(name) is not None:
            console.print(f"{name}: {ended[name]}")
    for label, text in validation_rows(ended.get("validation_untrained") or {}):
        console.print(f"{label}, untrained: {text}")
    for label, text in validation_rows(ended.get("validation") or {}):
        console.print(f"{label}: {text}")


if __name__ == "__main__":
    run_job(main)
