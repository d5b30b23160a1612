"""The loop of every stage: step, moving average, publish, checkpoint, tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.events import Event
from trainers.checkpoint import pack_checkpoint, restore_checkpoint
from trainers.ema import EmaSchedule, ema_update_
from trainers.settings import learning_rate
from trainers.step import step_generator, train_step

if TYPE_CHECKING:
    from trainers.learner import Learner
    from trainers.parts import TrainParts
    from trainers.settings import StageSettings

ASK_EVERY_STEPS = 5
"""Steps between two questions whether a machine is about to go: each waits for all ranks."""


def resume_stage(settings: StageSettings, learner: Learner, parts: TrainParts) -> bool:
    """Restore the newest checkpoint of the stage, if there is one.

    Returns:
        Whether there was one; if not, learner and stream are as they were.
    """
    files = parts.checkpoints.latest() if parts.checkpoints else None
    if files is None:
        return False
    parts.batches.restore(restore_checkpoint(learner, files, stage=settings.stage))
    return True


def run_stage(settings: StageSettings, learner: Learner, parts: TrainParts) -> None:
    """Make the stage's remaining steps.

    Every rank makes the same steps, whatever its data look like. The creation weights change by
    Eq. 8 alone; a stage without moving average leaves them as they are.

    Args:
        learner: Changed; starts at its own step.

    Raises:
        NotFiniteError: If a loss or gradient is not finite.
        RunFailedError: If weights cannot be published.
    """
    publish_is_due = False
    while learner.step < settings.optimisation.steps:
        numbers = _make_step(settings, learner, parts)
        seen_before = learner.seen_images
        learner.step += 1
        learner.seen_images += settings.optimisation.batch_size
        _average(settings, learner, seen_before)
        publish_is_due |= _crosses(settings.publish_every_images, seen_before, learner.seen_images)
        publish_is_due = publish_is_due and not _try_publish(learner, parts)
        if _is_checkpoint_due(settings, learner, parts):
            save_checkpoint(settings, learner, parts)
            if settings.validates_at_checkpoints and learner.step < settings.optimisation.steps:
                validate(learner, parts)
        parts.progress.add_step(
            images=settings.optimisation.batch_size, fields=numbers | _position(learner, parts)
        )


def _is_checkpoint_due(settings: StageSettings, learner: Learner, parts: TrainParts) -> bool:
    """Equal on all ranks: they ask together whether a machine is about to go."""
    every = settings.training.checkpoint_every_steps
    if learner.step % every == 0 or learner.step == settings.optimisation.steps:
        return True
    is_asked = learner.step % ASK_EVERY_STEPS == 0 and parts.checkpoints is not None
    return is_asked and parts.checkpoints is not None and parts.checkpoints.is_due()


def _make_step(settings: StageSettings, learner: Learner, parts: TrainParts) -> dict[str, float]:
    batch = next(parts.batches)
    rate = learning_rate(learner.step, settings.optimisation)
    numbers = train_step(
        learner,
        batch,
        backbone=parts.backbone,
        moments=parts.moments,
        ranks=parts.ranks,
        learning_rate=rate,
        clip_grad_norm=settings.optimisation.clip_grad_norm,
        generator=step_generator(settings.seed, settings.stage, learner.step, parts.ranks.rank),
    )
    newest = parts.publisher.newest if parts.publisher else None
    parts.progress.add_batch(batch, current_version=newest.version if newest else 0)
    return numbers | {"learning_rate": rate}


def _average(settings: StageSettings, learner: Learner, seen_before: int) -> None:
    if settings.ema_every_samples is None:
        return
    schedule = EmaSchedule(settings.ema_every_samples)
    due = schedule.updates_due(seen_before, learner.seen_images)
    ema_update_(learner.creation, learner.exploitation, decay=settings.ema_decay, updates=due)
    learner.ema_updates += due


def _try_publish(learner: Learner, parts: TrainParts) -> bool:
    """Publish in the background and score; False while the version before is on its way."""
    if parts.publisher is None:
        return True
    if not parts.publisher.start(learner):
        return False
    if parts.after_publish is not None and parts.live is not None:
        parts.publisher.finish()
        parts.after_publish()
        parts.live.refresh(force=True)
    validate(learner, parts)
    return True


def _crosses(every: int | None, before: int, after: int) -> bool:
    return every is not None and after // every > before // every


def save_checkpoint(settings: StageSettings, learner: Learner, parts: TrainParts) -> None:
    """Keep the state; every rank calls it, rank 0 writes."""
    if parts.checkpoints is None:
        return
    files = None
    if parts.ranks.rank == 0:
        files = pack_checkpoint(learner, stage=settings.stage, stream=parts.batches.state())
    parts.checkpoints.save(files, step=learner.step)


def validate(learner: Learner, parts: TrainParts) -> dict[str, float]:
    """Score the creation weights on the validation images and tell; empty if there are none."""
    if parts.validator is None:
        return {}
    scores = parts.validator.figures(learner.creation)
    if scores:
        parts.progress.fields["validation"] = scores
        parts.progress.emit(Event.VALIDATION, step=learner.step, scores=scores)
    return scores


def _position(learner: Learner, parts: TrainParts) -> dict[str, Any]:
    position: dict[str, Any] = {"step": learner.step, "seen_images": learner.seen_images}
    if parts.publisher is None:
        return position
    parts.publisher.poll()
    newest = parts.publisher.newest
    if newest is not None:
        step_of_newest = newest.step if newest.stage == "self_improve" else 0
        position["version"] = newest.version
        position["publish_lag"] = learner.step - step_of_newest
    return position
