"""One stage of a run: which it is, and the sections of the configuration that it reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.config_training import CreatorStageSection

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from schemas.config_training import StageSection, TrainingSection
    from schemas.stages import Stage

_POLY_POWER = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSettings:
    """A stage of a run.

    Attributes:
        stage: Which.
        seed: Of the run.
        optimisation: Steps, batch size and learning rate of this stage.
        training: What all stages share.
    """

    stage: Stage
    seed: int
    optimisation: StageSection
    training: TrainingSection

    @property
    def ema_every_samples(self) -> int | None:
        """Images between two updates of Eq. 8; None: the stage has no moving average."""
        if self.stage == "creator":
            return self.optimisation.batch_size
        return None if self.stage == "warm_up" else self.training.ema.every_samples

    @property
    def ema_decay(self) -> float:
        """α of Eq. 8."""
        own = self.optimisation
        return own.ema_decay if isinstance(own, CreatorStageSection) else self.training.ema.decay

    @property
    def publish_every_images(self) -> int | None:
        """Images between two published versions; None: the stage publishes none."""
        return self.training.publish_every_images if self.stage == "self_improve" else None

    @property
    def validates_at_checkpoints(self) -> bool:
        """Whether validation goes with checkpoints, for lack of versions to go with."""
        return self.stage == "creator"


def stage_settings(config: RunConfig, stage: Stage) -> StageSettings:
    """Take a stage from a run's configuration; the control learns as long as self-improvement.

    Raises:
        ConfigError: If the configuration has no such stage.
    """
    training = config.training
    if stage == "creator":
        optimisation: StageSection = training.creator_stage
    else:
        optimisation = training.warm_up if stage == "warm_up" else training.self_improve
    return StageSettings(
        stage=stage, seed=config.run.seed, optimisation=optimisation, training=training
    )


def learning_rate(step: int, section: StageSection) -> float:
    """Linear warm-up, then ``lr_decay`` from the peak to a share of it.

    With p from 0 to 1 over the steps after the warm-up, the way that is left is (1 + cos πp) / 2
    (cosine) or (1 - p)^0.9 (poly).

    Args:
        step: Optimiser step about to be made, from 0 to ``steps - 1``.
        section: ``learning_rate`` is reached at the end of ``lr_warm_up_steps``; the last step has
            the share ``lr_final_fraction`` of it.
    """
    peak, rise, final = section.learning_rate, section.lr_warm_up_steps, section.lr_final_fraction
    if step < rise:
        return peak * (step + 1) / rise
    progress = min((step - rise) / max(1, section.steps - 1 - rise), 1.0)
    if section.lr_decay == "poly":
        share = (1.0 - progress) ** _POLY_POWER
    else:
        share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (final + (1.0 - final) * share)
