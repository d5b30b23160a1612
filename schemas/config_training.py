"""Section ``training`` of the configuration: how the predictor learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.config_base import Count, Fraction, Operations, PositiveInt, Section
from schemas.errors import ConfigError


class StageSection(Section, fields_are="science"):
    """Optimisation of one stage."""

    steps: PositiveInt = Field(description="Optimiser steps.")
    batch_size: PositiveInt = Field(default=16, description="Images per step, over all workers.")
    learning_rate: Annotated[float, Field(gt=0.0)] = 3.57e-4
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    lr_final_fraction: Fraction = Field(
        default=1.0, description="Learning rate at the end, as a share of the start."
    )
    lr_decay: Literal["cosine", "poly"] = Field(
        default="cosine",
        description="How it falls: by half a cosine, or by the power 0.9 of the share of steps "
        "that are left, as in the multi-task recipes.",
    )
    lr_warm_up_steps: Count = 0
    clip_grad_norm: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None,
        description="Greatest norm of a step's gradient, longer ones are shortened to it; absent: "
        "no limit. Published recipes: bae 0.1, idisc 1, invpt and taskprompter 10.",
    )


class CreatorStageSection(StageSection, fields_are="science"):
    """The stage in which the creator learns on the source's own images."""

    text_drop: Fraction = Field(
        default=0.15,
        description="Share of images that are learnt from under the empty prompt; guidance needs "
        "some.",
    )
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.998,
        description="Decay of the moving average that makes the images; one update a step.",
    )
    tuning: Literal["lora", "full"] = Field(
        default="lora",
        description="What of the denoiser learns, for halfway and gaussian. lora: low-rank terms "
        "at the attention's projections; full: the whole U-Net.",
    )
    lora_rank: PositiveInt = Field(default=8, description="Rank, where tuning is lora.")


class EmaSection(Section, fields_are="science"):
    """The moving average of Eq. 8."""

    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.998, description="α.")
    every_samples: PositiveInt = Field(
        default=40, description="One update each so many images, counted over all workers."
    )


class AugmentationSection(Section, fields_are="science"):
    """What happens to images together with their labels, predicted ones too; by default nothing."""

    zoom_min: Annotated[float, Field(ge=0.25, le=4.0)] = Field(
        default=1.0,
        description="Least factor of a random zoom. The result is cropped at random, or padded "
        "with pixels that do not count, back to the size; depth is divided by the factor.",
    )
    zoom_max: Annotated[float, Field(ge=0.25, le=4.0)] = Field(
        default=1.0, description="Greatest factor; the multi-task recipe has 0.5 to 2."
    )
    cat_max_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0,
        description="A crop with more than this share of one semseg class is drawn again, ten "
        "times at most; the multi-task recipe has 0.75.",
    )
    photometric: bool = Field(
        default=False,
        description="Change brightness, contrast, saturation and hue, each with probability 1/2.",
    )

    @model_validator(mode="after")
    def _zooms_fit(self) -> AugmentationSection:
        if self.zoom_min > self.zoom_max:
            raise ValueError(
                f"zoom_min = {self.zoom_min} is more than zoom_max = {self.zoom_max}; "
                "lower zoom_min or raise zoom_max"
            )
        return self


PixelWeighting = Literal["none", "confidence"]


class TrainingSection(Section, fields_are="science"):
    """How the predictor learns."""

    warm_up: StageSection
    self_improve: StageSection
    creator: CreatorStageSection | None = Field(
        default=None,
        description="What makes images learns on the source's own images before any are made; "
        "absent: it stays as it is.",
    )
    ema: EmaSection = EmaSection()
    real_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5, description="Share of real images in a batch."
    )
    hflip: bool = Field(default=False, description="Mirror images and labels with probability 1/2.")
    augmentation: AugmentationSection = AugmentationSection()
    pixel_weights: PixelWeighting = Field(
        default="none",
        description="What a synthetic pixel counts in the loss. none: as much as a real "
        "one; confidence: the confidence of its label, for normals the cosine of the expected "
        "error, 0 from 90 degrees on.",
    )
    publish_every_images: PositiveInt = Field(
        default=800, description="Creation weights are published each so many images."
    )
    min_synthetic_samples: Count = Field(
        default=1, description="Committed synthetic samples to wait for before the loop starts."
    )
    synthetic_run: str | None = Field(
        default=None,
        description="Learn from the synthetic samples of this other run; nothing is generated.",
    )
    synthetic_round: Count | None = Field(
        default=None,
        description="Learn from the labels of this round alone; absent: from the newest ones.",
    )
    staleness_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0, description="Weight of a shard is this to the power of its version lag."
    )
    max_staleness: PositiveInt | None = Field(
        default=None, description="Shards labelled more versions ago than this are not read."
    )
    poll_s: Operations[Annotated[float, Field(gt=0.0)]] = Field(
        default=2.0, description="Least time between two looks for new shards."
    )
    num_workers: Operations[PositiveInt] = Field(
        default=1, description="Processes that share each batch, each on its part of it."
    )
    cpus_per_worker: Operations[PositiveInt] = 1
    use_gpu: Operations[bool] = False
    checkpoint_every_steps: Operations[PositiveInt] = 100
    starved_after_s: Operations[Annotated[float, Field(gt=0.0)]] = Field(
        default=300.0, description="Waiting longer than this for synthetic samples is an error."
    )

    @property
    def creator_stage(self) -> CreatorStageSection:
        """The section of the stage ``creator``.

        Raises:
            ConfigError: If there is none.
        """
        if self.creator is None:
            raise ConfigError(
                "training.creator: wanted a section, since the stage creator learns as it says, "
                "found none; add training.creator.steps, or train another stage"
            )
        return self.creator
