"""The configuration of a complete run: every field, its range, its default and its meaning.

Defaults are the papers' where a paper states one (Diff-2-in-1: T = 600, 50 steps, α = 0.998, one
moving-average update each 40 samples). ``load_config`` in ``schemas.config_file`` reads it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.sample import Task

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSection(Section):
    """Where the run lives."""

    url: str = Field(description="Run directory: a folder or any fsspec URL (memory://, s3://).")
    seed: Count = Field(default=0, description="Seed of everything that is random in the run.")


class ModelSection(Section):
    """The frozen models."""

    diffusion: str = Field(
        default="starter/diffusion",
        description="Folder or hub name in diffusers form (Stable Diffusion v1-5 or alike).",
    )
    captioner: Literal["blip2", "file", "source", "none"] = Field(
        default="blip2",
        description="blip2: run a BLIP-2; file: read a JSON object key -> caption; "
        "source: the source's own captions; none: empty captions.",
    )
    captioner_path: str = Field(
        default="starter/captioner", description="BLIP-2 folder or hub name, or the JSON file."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Precision of the frozen models."
    )


class RoomsSource(Section):
    """The shipped rooms."""

    kind: Literal["rooms"] = "rooms"
    root: str = Field(default="data/rooms", description="Folder of the shipped shards.")
    num_labelled: PositiveInt = Field(
        default=64, description="Labelled images taken from the train split (scarce labels)."
    )
    num_validation: Count = Field(default=64, description="Validation images used.")
    num_test: Count = Field(default=256, description="Test images used.")


class FolderSource(Section):
    """A user's own folder of images and label maps, described by a short YAML."""

    kind: Literal["folder"] = "folder"
    description: str = Field(description="Path of the YAML that describes the folder.")
    num_labelled: PositiveInt | None = Field(
        default=None, description="Labelled images taken from the train list; all if absent."
    )
    num_validation: Count | None = Field(default=None, description="Validation images used.")
    num_test: Count | None = Field(default=None, description="Test images used.")


Source = Annotated[RoomsSource | FolderSource, Field(discriminator="kind")]


class MethodSection(Section):
    """The predictor that learns."""

    name: Literal["diff2in1"] = "diff2in1"
    tasks: tuple[Task, ...] = Field(default=("normals",), min_length=1)
    num_classes: PositiveInt = Field(
        default=21, description="Classes of semantic segmentation, ids from 0."
    )
    feature_timestep: Annotated[int, Field(ge=0, le=999)] = Field(
        default=0, description="Schedule index at which features are taken."
    )


class CreatorSection(Section):
    """How a synthetic image is made from a real one."""

    kind: Literal["halfway", "gaussian"] = "halfway"
    t_start: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=600, description="Timestep T to which the latent is noised."
    )
    num_steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=50, description="Denoising steps between T and 0."
    )
    sampler: Literal["ddim", "dpmsolver++"] = "ddim"
    guidance_scale: Annotated[float, Field(ge=1.0, le=50.0)] = Field(
        default=1.0, description="1 = no classifier-free guidance."
    )
    eta: Fraction = Field(default=0.0, description="DDIM noise; 0 = deterministic.")
    batch_size: PositiveInt = Field(default=16, description="Images denoised together.")

    @model_validator(mode="after")
    def _steps_fit(self) -> CreatorSection:
        if self.num_steps > self.t_start:
            raise ValueError(
                f"num_steps = {self.num_steps} is more than t_start = {self.t_start}; "
                "lower num_steps or raise t_start"
            )
        return self


class PlanSection(Section):
    """What is generated."""

    rounds: PositiveInt = Field(default=3, description="Rounds of labelling.")
    variants: PositiveInt = Field(default=1, description="Synthetic images per source image.")
    unit_size: PositiveInt = Field(default=16, description="Source images per unit.")
    images: Literal["reuse", "fresh"] = Field(
        default="reuse",
        description="reuse: images are made in round 0, later rounds renew their labels; "
        "fresh: every round makes new images.",
    )


class LabellingSection(Section):
    """How a synthetic image is labelled; the defaults are the paper's plain prediction."""

    average_mirrored: bool = Field(
        default=False, description="Average the prediction with that of the mirrored image."
    )
    max_pixel_error_deg: Annotated[float, Field(gt=0.0, le=180.0)] = Field(
        default=180.0,
        description="Pixels whose predicted normal has a greater expected angular error stay "
        "unlabelled.",
    )
    min_pixel_confidence: Fraction = Field(
        default=0.0,
        description="Pixels whose predicted depth or class is less sure stay unlabelled.",
    )


class ScreeningSection(Section):
    """When a synthetic sample is dropped."""

    min_pixel_std: Annotated[float, Field(ge=0.0)] = Field(
        default=8.0, description="Least standard deviation of the image, in 8-bit steps."
    )
    max_expected_error_deg: Annotated[float, Field(gt=0.0, le=180.0)] = Field(
        default=60.0, description="Greatest mean expected angular error of predicted normals."
    )
    min_confidence: Fraction = Field(
        default=0.0, description="Least mean confidence of predicted depth or classes."
    )


class StageSection(Section):
    """Optimisation of one stage."""

    steps: PositiveInt = Field(description="Optimiser steps.")
    batch_size: PositiveInt = Field(default=16, description="Images per step, over all workers.")
    learning_rate: Annotated[float, Field(gt=0.0)] = 3.57e-4
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    lr_final_fraction: Fraction = Field(
        default=1.0, description="Learning rate at the end, as a share of the start (cosine)."
    )
    lr_warm_up_steps: Count = 0


class EmaSection(Section):
    """The moving average of Eq. 8."""

    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.998, description="α.")
    every_samples: PositiveInt = Field(
        default=40, description="One update each so many images, counted over all workers."
    )


class TrainingSection(Section):
    """How the predictor learns."""

    warm_up: StageSection
    self_improve: StageSection
    ema: EmaSection = EmaSection()
    real_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5, description="Share of real images in a batch."
    )
    hflip: bool = Field(default=False, description="Mirror images and labels with probability 1/2.")
    publish_every_images: PositiveInt = Field(
        default=800, description="Creation weights are published each so many images."
    )
    min_synthetic_samples: Count = Field(
        default=1, description="Committed synthetic samples to wait for before the loop starts."
    )
    staleness_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0, description="Weight of a shard is this to the power of its version lag."
    )
    max_staleness: PositiveInt | None = Field(
        default=None, description="Shards labelled more versions ago than this are not read."
    )
    poll_s: Annotated[float, Field(gt=0.0)] = Field(
        default=2.0, description="Least time between two looks for new shards."
    )
    num_workers: PositiveInt = 1
    cpus_per_worker: PositiveInt = 1
    use_gpu: bool = False
    checkpoint_every_steps: PositiveInt = 100
    starved_after_s: Annotated[float, Field(gt=0.0)] = Field(
        default=300.0, description="Waiting longer than this for synthetic samples is an error."
    )


class GenerationSection(Section):
    """How the generators run."""

    num_generators: PositiveInt = 1
    cpus_per_generator: PositiveInt = 1
    gpus_per_generator: Annotated[float, Field(ge=0.0)] = 0.0
    max_lead: Count = Field(
        default=1, description="Rounds that generation may run ahead of training."
    )
    max_attempts: PositiveInt = Field(default=3, description="Attempts at one unit.")
    unit_timeout_s: Annotated[float, Field(gt=0.0)] = 1800.0
    max_failed_fraction: Fraction = Field(
        default=0.5, description="Share of failed samples in recent units that stops the run."
    )
    failure_window_units: PositiveInt = 8


class EvaluationSection(Section):
    """What is scored at the end."""

    batch_size: PositiveInt = 32
    control: bool = Field(
        default=True, description="Train and score the real-only control as well."
    )


class RayEnvironment(Section):
    """Which Ray."""

    address: str | None = Field(
        default=None,
        description="Cluster to join; absent: the one this job was submitted to, else a local one.",
    )
    object_store_mb: PositiveInt = Field(default=256, description="Only for a local Ray.")


class RunConfig(Section):
    """A complete run."""

    run: RunSection
    model: ModelSection = ModelSection()
    source: Source = RoomsSource()
    method: MethodSection = MethodSection()
    creator: CreatorSection = CreatorSection()
    plan: PlanSection = PlanSection()
    labelling: LabellingSection = LabellingSection()
    screening: ScreeningSection = ScreeningSection()
    training: TrainingSection
    generation: GenerationSection = GenerationSection()
    evaluation: EvaluationSection = EvaluationSection()
    ray: RayEnvironment = RayEnvironment()

    @model_validator(mode="after")
    def _batch_splits(self) -> RunConfig:
        workers = self.training.num_workers
        for stage in ("warm_up", "self_improve"):
            batch = getattr(self.training, stage).batch_size
            if batch % workers:
                raise ValueError(
                    f"training.{stage}.batch_size = {batch} cannot be split over "
                    f"training.num_workers = {workers}; make it a multiple"
                )
        return self

    def digest(self) -> str:
        """Digest of all fields, sixteen hexadecimal digits."""
        return _digest(self.model_dump(mode="json"))

    def recipe_hash(self) -> str:
        """Digest of the fields that decide synthetic images: models, creator, captioner."""
        chosen = self.model_dump(mode="json", include={"model", "creator"})
        return _digest(chosen)

    @property
    def run_id(self) -> str:
        """Last part of the run's URL."""
        return self.run.url.rstrip("/").rsplit("/", 1)[-1]


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
