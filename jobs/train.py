"""Train one stage of a run, on Ray or in this process; generation is another job's business.

    python jobs/train.py --config configs/rooms_demo.yaml --stage warm_up

The same command resumes a stage that was interrupted; ``self_improve`` learns from the synthetic
samples that are in the run directory and from those that appear there meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from rich.console import Console

from runs.checks.models import expect_models
from runs.command_line import config_from, make_parser, run_job
from runs.directory import claim_run_directory, resumed_config
from runs.driving import driving
from runs.training import describe_stage, train
from schemas.stages import Stage
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Train the stage that the command line names."""
    parser = make_parser("Train one stage of a run.")
    parser.add_argument("--stage", choices=get_args(Stage), required=True, help="what to train")
    parser.add_argument("--local", action="store_true", help="train in this process, without Ray")
    parsed = parser.parse_args(arguments)
    config, stage = config_from(parsed), parsed.stage
    expect_models(config, with_captioner=False)
    console, store = Console(), open_store(config.run.url)
    config = resumed_config(store, config)
    if parsed.dry_run:
        for line in describe_stage(config, stage):
            console.print(line, soft_wrap=True)
        return
    claim_run_directory(store, config)
    with driving(store, job=f"train --stage {stage}", roles=("train",)) as lock:
        ended = train(config, stage, lock, is_local=parsed.local, console=console)
    for name in ("step", "seen_images", "seconds", "steps_per_s", "version", "validation"):
        if ended.get(name) not in (None, {}):
            console.print(f"{name}: {ended[name]}")


if __name__ == "__main__":
    run_job(main)
