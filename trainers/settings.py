"""The numbers of one stage, taken from a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from schemas.config_training import StageSection
    from schemas.stages import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSettings:
    """Numbers of one stage.

    Attributes:
        stage: Which.
        seed: Of the run.
        steps: Optimiser steps.
        batch_size: Images of a step, over all ranks.
        learning_rate: Peak.
        weight_decay: Decoupled.
        lr_final_fraction: Share of the peak at the last step.
        lr_warm_up_steps: Steps of the linear rise.
        clip_grad_norm: Greatest norm of a step's gradient; None: no limit.
        ema_every_samples: Images between two updates of Eq. 8; None: no moving average.
        ema_decay: α of Eq. 8.
        publish_every_images: Images between two published versions; None: none.
        checkpoint_every_steps: Steps between two checkpoints.
    """

    stage: Stage
    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    lr_final_fraction: float = 1.0
    lr_warm_up_steps: int = 0
    clip_grad_norm: float | None = None
    ema_every_samples: int | None = None
    ema_decay: float = 0.998
    publish_every_images: int | None = None
    checkpoint_every_steps: int = 100


def stage_settings(config: RunConfig, stage: Stage) -> StageSettings:
    """Take the numbers of a stage from a run's configuration."""
    training = config.training
    averages = stage != "warm_up"
    section: StageSection = training.self_improve if averages else training.warm_up
    return StageSettings(
        stage=stage,
        seed=config.run.seed,
        steps=section.steps,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        lr_final_fraction=section.lr_final_fraction,
        lr_warm_up_steps=section.lr_warm_up_steps,
        clip_grad_norm=section.clip_grad_norm,
        ema_every_samples=training.ema.every_samples if averages else None,
        ema_decay=training.ema.decay,
        publish_every_images=training.publish_every_images if stage == "self_improve" else None,
        checkpoint_every_steps=training.checkpoint_every_steps,
    )
