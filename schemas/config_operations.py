"""Sections of the configuration that say how a run is carried out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.config_base import Count, Fraction, PositiveInt, Science, Section


class GenerationSection(Section, fields_are="operations"):
    """How the generators run."""

    num_generators: PositiveInt = 1
    cpus_per_generator: PositiveInt = 1
    gpus_per_generator: Annotated[float, Field(ge=0.0)] = 0.0
    max_lead: Science[Count] = Field(
        default=1,
        description="Rounds that generation may run ahead of training: how old the weights are "
        "that label.",
    )
    max_attempts: PositiveInt = Field(default=3, description="Attempts at one unit.")
    unit_timeout_s: Annotated[float, Field(gt=0.0)] = Field(
        default=1800.0,
        description="Longest time that a unit, or loading the models, may take; then a generator "
        "hangs.",
    )
    min_unit_timeout_s: Annotated[float, Field(gt=0.0)] = Field(
        default=120.0,
        description="The same for units known to be fast; between both, five times the median.",
    )
    max_failed_fraction: Fraction = Field(
        default=0.5, description="Share of failed samples in recent units that stops the run."
    )
    failure_window_units: PositiveInt = 8


class RayEnvironment(Section, fields_are="operations"):
    """Which Ray."""

    address: str | None = Field(
        default=None,
        description="Cluster to join; absent: the one this job was submitted to, else a local one.",
    )
    object_store_mb: PositiveInt = Field(default=256, description="Only for a local Ray.")
    generator_labels: dict[str, str] = Field(
        default={}, description="Generators run only on nodes with these labels."
    )
    trainer_labels: dict[str, str] = Field(
        default={}, description="Training workers run only on nodes with these labels."
    )
