"""Train one stage of a run, on Ray or in this process; generation is another job's business.

    python jobs/train.py --config configs/rooms_demo.yaml --stage warm_up

The same command resumes a stage that was interrupted; ``self_improve`` learns from the synthetic
samples that are in the run directory and from those that appear there meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console

from runs.checks import expect_models
from runs.command_line import config_from, make_parser, run_job
from runs.directory import claim_run_directory
from runs.driving import driving
from runs.event_tail import EventTail
from runs.progress import ProgressDisplay, RunView
from schemas.stages import Stage
from sources.open import open_source
from storage.files.stores import open_store
from trainers.progress import PROGRESS_EVENT
from trainers.settings import StageSettings, stage_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from storage.records.run_lock import RunLock


def main(arguments: Sequence[str]) -> None:
    """Train the stage that the command line names."""
    parser = make_parser("Train one stage of a run.")
    parser.add_argument("--stage", choices=get_args(Stage), required=True, help="what to train")
    parser.add_argument("--local", action="store_true", help="train in this process, without Ray")
    parsed = parser.parse_args(arguments)
    config, stage = config_from(parsed), parsed.stage
    expect_models(config, with_captioner=False)
    console = Console()
    if parsed.dry_run:
        for line in describe_stage(config, stage_settings(config, stage)):
            console.print(line, soft_wrap=True)
        return
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    with driving(store, job=f"train --stage {stage}", roles=("train",)) as lock:
        ended = train(config, stage, lock, is_local=parsed.local, console=console)
    for name in ("step", "seen_images", "seconds", "steps_per_s", "version", "validation"):
        if ended.get(name) not in (None, {}):
            console.print(f"{name}: {ended[name]}")


def train(
    config: RunConfig, stage: Stage, lock: RunLock, *, is_local: bool, console: Console
) -> dict[str, Any]:
    """Train a stage and show how far it is.

    Returns:
        Content of the stage's ``final.json``.
    """
    tail = EventTail(lock.store, event=PROGRESS_EVENT)

    def refresh(view: RunView) -> None:
        view.training = tail.newest() or view.training

    with ProgressDisplay(console, RunView(stage=stage), refresh):
        if is_local:
            import torch

            from trainers.train_stage import train_stage_locally

            torch.set_num_threads(config.training.cpus_per_worker)
            return train_stage_locally(config, stage, lock=lock)
        from runs.on_ray import session as ray_session
        from trainers.on_ray.train import train_stage_on_ray

        with ray_session.connect(config, console):
            return train_stage_on_ray(config, stage, lock=lock)


def describe_stage(config: RunConfig, settings: StageSettings) -> list[str]:
    """Say what a stage would do: a line for each fact."""
    source = open_source(config.source, config.method.tasks, num_classes=config.method.num_classes)
    num_real = sum(len(shard.keys) for shard in source.shards("train"))
    images = settings.steps * settings.batch_size
    lines = [
        f"stage {settings.stage} of {config.run.url}",
        f"{settings.steps} steps of {settings.batch_size} images = {images} images, on "
        f"{config.training.num_workers} worker(s) of {config.training.cpus_per_worker} CPU(s)",
        f"real images: {num_real} from {source.name}",
    ]
    if settings.ema_every_samples is not None:
        updates = images // settings.ema_every_samples
        lines.append(
            f"moving average: {updates} updates at decay {settings.ema_decay}; the initial "
            f"weights keep a share of {settings.ema_decay**updates:.3f}"
        )
    if settings.publish_every_images is not None:
        lines.append(
            f"published: a version each {settings.publish_every_images} images, "
            f"about {images // settings.publish_every_images} in all"
        )
    return lines


if __name__ == "__main__":
    run_job(main)
