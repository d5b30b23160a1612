"""Training one stage as a command does it: on Ray or in this process, with its progress shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.make.build import open_captioner
from pipeline.make.caption import caption_source, shards_without_captions
from runs.checks.captions import expect_captions
from runs.checks.models import expect_models
from runs.progress import ProgressDisplay, RunView
from runs.state import EventTail
from schemas.events import Event
from schemas.text import number_of
from sources.open import open_run_source
from trainers.settings import stage_settings

if TYPE_CHECKING:
    from rich.console import Console

    from schemas.config import RunConfig
    from schemas.stages import Stage
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore
    from storage.records.run_lock import RunLock


def train(
    config: RunConfig, stage: Stage, lock: RunLock, *, is_local: bool, console: Console
) -> dict[str, Any]:
    """Train a stage and show how far it is; a creator learns under captions, made before.

    Returns:
        Content of the stage's ``final.json``.
    """
    tail = EventTail(lock.store, Event.TRAINER_PROGRESS)

    def refresh(view: RunView) -> None:
        view.training = tail.newest() or view.training

    with ProgressDisplay(console, RunView(stage=stage), refresh):
        if is_local:
            import torch

            from trainers.train_stage import train_stage_locally

            torch.set_num_threads(config.training.cpus_per_worker)
            if stage == "creator":
                _caption_here(config, lock.store)
            return train_stage_locally(config, stage, lock=lock)
        from runs.on_ray import session as ray_session
        from trainers.on_ray.train import train_stage_on_ray

        with ray_session.connect(config, console, roles=lock.roles):
            if stage == "creator":
                from pipeline.on_ray.captions import caption_source_on_ray

                caption_source_on_ray(config, lock.store.url)
            return train_stage_on_ray(config, stage, lock=lock)


def _caption_here(config: RunConfig, store: RunStore) -> None:
    source = open_run_source(config)
    if shards_without_captions(store, source.shards("train")):
        caption_source(store, source, open_captioner(config))


def expect_stage(
    config: RunConfig, stage: Stage, store: RunStore, source: LabelledSource
) -> list[str]:
    """Check what a stage needs beside what every run needs, before anything is loaded.

    Returns:
        Remarks on what the stage bears.

    Raises:
        ConfigError: If the configuration has no such stage, or captions cannot be made.
    """
    stage_settings(config, stage)
    if stage != "creator":
        return []
    expect_models(config)
    return expect_captions(config, store, source)


def describe_stage(config: RunConfig, stage: Stage) -> list[str]:
    """Say what a stage would do: a line for each fact."""
    settings = stage_settings(config, stage)
    source = open_run_source(config)
    num_real = sum(len(shard.keys) for shard in source.shards("train"))
    section, decay = settings.optimisation, settings.ema_decay
    images = section.steps * section.batch_size
    lines = [
        f"stage {settings.stage} of {config.run.url}",
        f"{section.steps} steps of {section.batch_size} images = {images} images, on "
        f"{number_of(config.training.num_workers, 'worker')} of "
        f"{number_of(config.training.cpus_per_worker, 'CPU')}",
        f"real images: {num_real} from {source.name}",
    ]
    if settings.ema_every_samples is not None:
        updates = images // settings.ema_every_samples
        lines.append(
            f"moving average: {updates} updates at decay {decay}; the initial "
            f"weights keep a share of {decay**updates:.3f}"
        )
    if settings.publish_every_images is not None:
        lines.append(
            f"published: a version each {settings.publish_every_images} images, "
            f"about {images // settings.publish_every_images} in all"
        )
    if stage == "creator":
        lines.append("published: one version of the creator, at the end")
    return lines
