"""Section ``source`` of the configuration: the real samples, and which labels are learnt from."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.config_base import Count, Operations, PositiveInt, Section
from schemas.sample import IGNORE_ID, Task

ClassId = Annotated[int, Field(ge=0, le=IGNORE_ID)]

MIN_DEALT = 2
"""Tasks among which labels can be dealt."""


class LabelsSection(Section, fields_are="science"):
    """Which labels of train are learnt from, for every kind but mix; other splits keep all."""

    regime: Literal["full", "one", "random", "file"] = Field(
        default="full",
        description="full: all; one: one label an image, as many of each task; random: of an "
        "image's n labels 1 to n - 1, any number and any subset as likely; file: those of a list.",
    )
    tasks: tuple[Task, ...] = Field(
        default=(),
        description="Tasks whose labels are dealt, where regime is one or random: those of all "
        "runs that are compared, also where method.tasks are fewer.",
    )
    seed: Count = Field(
        default=0,
        description="Seed of the deal; not that of the run, so that all runs of a table see the "
        "same labels.",
    )
    file: str | None = Field(
        default=None, description="Where regime is file: JSON {key: [task, ...]}."
    )
    drops_unlabelled: bool = Field(
        default=False,
        description="Whether training images without a label of method.tasks are left out.",
    )

    @property
    def is_dealt(self) -> bool:
        """Whether chance decides which labels are learnt from."""
        return self.regime in {"one", "random"}

    @model_validator(mode="after")
    def _is_whole(self) -> LabelsSection:
        if twice := [task for task in self.tasks if self.tasks.count(task) > 1]:
            raise ValueError(f"tasks: {twice[0]} is given twice; name each task once")
        if self.is_dealt and len(self.tasks) < MIN_DEALT:
            raise ValueError(
                f"regime = {self.regime}, tasks = {list(self.tasks)}: wanted at least {MIN_DEALT} "
                "tasks among which labels are dealt; name those of all runs that are compared, "
                "also where method.tasks are fewer"
            )
        if (self.file is not None) != (self.regime == "file"):
            raise ValueError(
                f"regime = {self.regime}, file = {self.file}: the list is read where regime is "
                "file, and only there; give both or neither"
            )
        return self


def _expect_fixed_deal(section: FolderSource | ShardsSource) -> None:
    """Check that no image can be added to a deal that is even.

    Raises:
        ValueError: If one can: the labels of all others would be dealt again.
    """
    if section.accept_additions and section.labels.regime == "one":
        raise ValueError(
            "accept_additions = true, labels.regime = one: more images make another deal, so that "
            "labels that were left out would be learnt from; set accept_additions=false, or take "
            "regime random or file"
        )


class RoomsSource(Section, fields_are="science"):
    """The shipped rooms."""

    kind: Literal["rooms"] = "rooms"
    root: str = Field(default="data/rooms", description="Folder of the shipped shards.")
    num_labelled: PositiveInt = Field(
        default=64, description="Labelled images taken from the train split (scarce labels)."
    )
    num_validation: Count = Field(default=64, description="Validation images used.")
    num_test: Count = Field(default=256, description="Test images used.")
    labels: LabelsSection = LabelsSection()
    train_captions: str = Field(
        default="",
        description="Regular expression; training images are those whose caption matches it.",
    )
    test_captions: str = Field(
        default="",
        description="The same for validation and test images: another style is a shift of domain.",
    )

    @field_validator("train_captions", "test_captions")
    @classmethod
    def _is_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class FolderSource(Section, fields_are="science"):
    """A user's own folder of images and label maps, described by a short YAML."""

    kind: Literal["folder"] = "folder"
    description: str = Field(description="Path of the YAML that describes the folder.")
    num_labelled: PositiveInt | None = Field(
        default=None, description="Labelled images taken from the train list; all if absent."
    )
    num_validation: Count | None = Field(default=None, description="Validation images used.")
    num_test: Count | None = Field(default=None, description="Test images used.")
    labels: LabelsSection = LabelsSection()
    accept_additions: Operations[bool] = Field(
        default=False,
        description="Whether a run that has begun learns from samples that were added to the train "
        "split since; those added to other splits are not used. Else a source that changed is "
        "refused.",
    )

    @model_validator(mode="after")
    def _deal_is_fixed(self) -> FolderSource:
        _expect_fixed_deal(self)
        return self


class ShardsSource(Section, fields_are="science"):
    """Shards that jobs/prepare.py made, or any WebDataset with such a manifest."""

    kind: Literal["shards"] = "shards"
    root: str = Field(description="Folder or URL of the shards and their manifest.parquet.")
    num_labelled: PositiveInt | None = Field(
        default=None,
        description="Labelled images taken from the train split, evenly spaced; all if absent.",
    )
    num_validation: Count | None = Field(default=None, description="Validation images used.")
    num_test: Count | None = Field(default=None, description="Test images used.")
    validation_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.1,
        description="Share of the train split held out for validation, chosen by a hash of scene "
        "or key; only where the shards have no validation split.",
    )
    num_classes: Annotated[int, Field(ge=2, le=254)] | None = Field(
        default=None,
        description="Classes of semseg, for shards without a prepared.json that tells.",
    )
    labels: LabelsSection = LabelsSection()
    accept_additions: Operations[bool] = Field(
        default=False,
        description="Whether a run that has begun learns from samples that were added to the train "
        "split since; those added to other splits are not used. Else a source that changed is "
        "refused.",
    )

    @model_validator(mode="after")
    def _deal_is_fixed(self) -> ShardsSource:
        _expect_fixed_deal(self)
        return self


PlainSource = Annotated[RoomsSource | FolderSource | ShardsSource, Field(discriminator="kind")]


class MixMember(Section, fields_are="science"):
    """One of a list; each has a section `source` of another kind, complete with its kind."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9-]+$", description="What its keys and shards begin with."
    )
    source: PlainSource
    tasks: tuple[Task, ...] = Field(
        min_length=1, description="Tasks that its labels are used of; those of others are not."
    )
    class_map: dict[ClassId, ClassId] = Field(
        default_factory=dict,
        description="Class id of its semseg to that of the mix, for each of its classes; 255: "
        "ignored. Absent: they are the same.",
    )

    @property
    def prefix(self) -> str:
        """What its keys and shards begin with; a name cannot hold the underscore."""
        return f"{self.name}_"


class MixSource(Section, fields_are="science"):
    """Several sources as one, each with its own tasks; all images of one size."""

    kind: Literal["mix"] = "mix"
    members: tuple[MixMember, ...] = Field(min_length=2, description="The sources.")

    @field_validator("members")
    @classmethod
    def _names_once(cls, members: tuple[MixMember, ...]) -> tuple[MixMember, ...]:
        names = [member.name for member in members]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is given twice; give each member a name of its own")
        for member in members:
            if getattr(member.source, "accept_additions", False):
                raise ValueError(
                    f"{member.name}: source.accept_additions = true: a mix takes no additions; set "
                    "it to false"
                )
        return members


Source = Annotated[
    RoomsSource | FolderSource | ShardsSource | MixSource, Field(discriminator="kind")
]
