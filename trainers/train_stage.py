"""A whole stage from its configuration: make the parts, run the loop, write its end."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from perception.build import device_of, make_creator_network, make_method, open_backbone
from perception.state_file import keys_digest, load_state_bytes, state_to_bytes
from schemas.errors import NotFiniteError, RunFailedError, WeightsMismatchError
from schemas.events import Event
from storage.files.stores import RunStore, open_store
from storage.records.run_lock import RunLock, fenced_message
from storage.records.weights import expect_fits, read_weights
from trainers.checkpoint import StoredCheckpoints
from trainers.final import read_final, write_final
from trainers.learner import Learned, Learner, copy_weights_, make_learner
from trainers.parts import Environment, TrainParts, make_parts
from trainers.publish import OnVersion, publish_first
from trainers.ranks import agree_on_all, agree_on_equal
from trainers.settings import StageSettings, stage_settings
from trainers.stage import resume_stage, run_stage, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from perception.diffusion.backbone import DiffusionBackbone
    from schemas.config import RunConfig
    from schemas.stages import Stage
    from trainers.progress import OnProgress


logger = logging.getLogger(__name__)

STARTS_AFRESH: tuple[Stage, ...] = ("warm_up", "creator")
"""Stages that start from no published weights; they end in version 0 of their series."""


class StageStoppedError(RunFailedError):
    """All ranks decided together that the stage cannot go on; trying again would end the same."""


def train_stage_locally(
    config: RunConfig,
    stage: Stage,
    *,
    on_version: OnVersion | None = None,
    on_progress: OnProgress | None = None,
    after_publish: Callable[[], None] | None = None,
    lock: RunLock | None = None,
) -> dict[str, Any]:
    """Train a stage in this process, without Ray; a stage that was stopped goes on.

    Args:
        stage: Which stage; all but ``STARTS_AFRESH`` need version 0 in the store.
        on_version: Told about published versions, from another thread.
        after_publish: Called between two steps, after each published version.
        lock: The driver's hold on the run; None if it took none.

    Returns:
        Content of ``checkpoints/<stage>/final/final.json``.

    Raises:
        RunFailedError: If the stage cannot go on.
    """
    environment = Environment(
        checkpoints=StoredCheckpoints(open_store(config.run.url), stage),
        device=device_of(config),
        on_version=on_version,
        on_progress=on_progress,
        after_publish=after_publish,
        lock=lock,
    )
    return train_stage(config, stage, environment)


def train_stage(config: RunConfig, stage: Stage, environment: Environment) -> dict[str, Any]:
    """Train a stage on one rank of a environment; returns at once if the stage has ended before.

    Returns:
        Content of ``final.json``; on ranks other than 0 only ``stage`` and counts.

    Raises:
        StageStoppedError: If training diverges, starves, has no fitting weights to start from, or a
            younger driver holds the run.
        RunFailedError: If weights cannot be published.
    """
    store = open_store(config.run.url)
    ended = read_final(store, stage)
    if ended is not None:
        return ended
    lock = environment.lock or RunLock(store=store)
    expect_driver(lock, environment)
    backbone = open_backbone(config, device=environment.device)
    settings = stage_settings(config, stage)
    learned = make_learned(config, stage, backbone)
    learner = make_learner(learned, weight_decay=settings.optimisation.weight_decay)
    parts = make_parts(config, settings, store, backbone, environment)
    try:
        untrained = validate(learner, parts) if stage == "creator" else {}
        if not resume_stage(settings, learner, parts) and stage not in STARTS_AFRESH:
            load_version_zero(store, learner, backbone)
        wait_for_synthetic(config, parts)
        started_s, started_at = time.monotonic(), learner.step
        run_stage(settings, learner, parts)
        seconds = time.monotonic() - started_s
        return end_stage(
            settings,
            learner,
            parts,
            lock,
            seconds=seconds,
            started_at_step=started_at,
            untrained=untrained,
        )
    except NotFiniteError as error:
        raise StageStoppedError(f"stage {stage} diverged: {error}") from error
    except WeightsMismatchError as error:
        raise StageStoppedError(
            f"stage {stage} cannot start from what is stored: {error}"
        ) from error
    finally:
        if parts.publisher is not None:
            parts.publisher.close()


def make_learned(config: RunConfig, stage: Stage, backbone: DiffusionBackbone) -> Learned:
    """Make what a stage trains, untrained.

    Raises:
        ConfigError: If it cannot do what is asked of it.
    """
    if stage == "creator":
        return make_creator_network(config, backbone)
    return make_method(config, backbone)


def expect_driver(lock: RunLock, environment: Environment) -> None:
    """Check on all ranks that the driver that started them holds the run.

    Raises:
        StageStoppedError: If a younger one does: no restart would change that.
    """
    successor = lock.successor()
    if not agree_on_all(environment.ranks, holds=successor is None, device=environment.device):
        raise StageStoppedError(
            fenced_message(lock, successor) if successor else "a younger driver took the run over"
        )


def load_version_zero(store: RunStore, learner: Learner, backbone: DiffusionBackbone) -> None:
    """Start from θ_W: creation = exploitation = version 0.

    Raises:
        StageStoppedError: If there is no version 0.
        WeightsMismatchError: If it belongs to another backbone or method.
    """
    try:
        manifest, data = read_weights(store, 0)
    except FileNotFoundError as error:
        raise StageStoppedError(
            f"{store.url}: wanted version 0 of the weights, found none; train stage warm_up first"
        ) from error
    expect_fits(
        manifest, base_model_hash=backbone.model_id, keys_hash=keys_digest(learner.creation)
    )
    load_state_bytes(learner.creation, data)
    load_state_bytes(learner.exploitation, data)


def wait_for_synthetic(config: RunConfig, parts: TrainParts) -> None:
    """Wait until every rank sees the synthetic samples that the stage wants to start with.

    Raises:
        StageStoppedError: If that takes longer than ``training.starved_after_s``.
    """
    training, live = config.training, parts.live
    if live is None:
        return
    wanted = training.min_synthetic_samples
    device = parts.backbone.device
    started_s = time.monotonic()
    while True:
        live.refresh(force=True)
        found = live.num_samples
        if agree_on_all(parts.ranks, holds=found >= wanted, device=device):
            return
        waited_s = time.monotonic() - started_s
        parts.progress.emit(Event.TRAINER_STARVED, found=found, wanted=wanted, waited_s=waited_s)
        in_time = waited_s < training.starved_after_s
        if not agree_on_all(parts.ranks, holds=in_time, device=device):
            raise StageStoppedError(
                f"waited {waited_s:.0f} s for {wanted} synthetic samples, found {found}; look at "
                "the generators, or raise training.starved_after_s"
            )
        time.sleep(training.poll_s)


def end_stage(
    settings: StageSettings,
    learner: Learner,
    parts: TrainParts,
    lock: RunLock,
    *,
    seconds: float,
    started_at_step: int,
    untrained: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Publish and write what the stage reached; ranks other than 0 only return counts.

    Args:
        seconds: Time of the loop in this process.
        started_at_step: Step at which this process began or went on.
        untrained: Validation figures before the first step, if there are any.

    Raises:
        RunFailedError: If publishing fails, or a younger driver holds the run.
    """
    is_equal = ranks_are_equal(learner, parts)
    steps = learner.step - started_at_step
    numbers: dict[str, Any] = {
        "seconds": seconds,
        "steps_per_s": steps / max(seconds, 1e-9),
        "started_at_step": started_at_step,
        "world": parts.ranks.world,
        "ranks_are_equal": is_equal,
    }
    if parts.ranks.rank != 0:
        return {"stage": settings.stage, "step": learner.step} | numbers
    lock.expect_held()
    if settings.stage == "warm_up":
        copy_weights_(learner.creation, learner.exploitation)
    if settings.stage in STARTS_AFRESH:
        manifest = publish_first(
            lock.store,
            learner.creation,
            stage=settings.stage,
            base_model_hash=parts.backbone.model_id,
            ema_decay=settings.ema_decay,
            series="creator" if settings.stage == "creator" else "creation",
        )
        numbers["version"] = manifest.version
    if parts.publisher is not None:
        parts.publisher.finish()
        parts.publisher.start(learner, is_last=True)
        newest = parts.publisher.finish()
        numbers["version"] = newest.version if newest else None
    if untrained:
        numbers["validation_untrained"] = dict(untrained)
    numbers["validation"] = validate(learner, parts)
    parts.progress.tell()
    lock.expect_held()
    content = write_final(lock.store, settings.stage, learner, numbers=numbers)
    parts.progress.emit(Event.STAGE_ENDED, **content)
    return content


def ranks_are_equal(learner: Learner, parts: TrainParts) -> bool:
    """Tell whether all ranks hold the same weights, as averaged gradients promise.

    Different processors may round differently; rank 0's weights count then, with a warning.
    """
    if parts.ranks.world == 1:
        return True
    data = state_to_bytes(learner.creation) + state_to_bytes(learner.exploitation)
    is_equal = agree_on_equal(parts.ranks, data, device=parts.backbone.device)
    if not is_equal:
        logger.warning("ranks_differ world=%d: the weights of rank 0 count", parts.ranks.world)
    return is_equal
