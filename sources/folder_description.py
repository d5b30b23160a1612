"""The YAML that describes a user's own folder of images and label maps."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.errors import SourceError
from schemas.sample import IGNORE_ID, Task

PositiveInt = Annotated[int, Field(ge=1)]

METRES_PER_STEP = {"mm": 1e-3, "cm": 1e-2, "m": 1.0}

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def load_description(path: Path) -> FolderDescription:
    """Read and check a description.

    Raises:
        SourceError: If the file is missing or malformed; the message names file, field, value
            and remedy.
    """
    if not path.is_file():
        raise SourceError(
            f"source.description = {path}: no such file; "
            "docs/howto-your-own-folder.md shows how to write one"
        )
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SourceError(
            f"{path}: not YAML ({error}); patterns with braces need quotes inside {{ … }}"
        ) from error
    if not isinstance(tree, dict):
        raise SourceError(f"{path}: wanted fields such as root: and image:, found {tree!r}")
    try:
        return FolderDescription.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(cast("dict[str, Any]", item)) for item in error.errors()]
        raise SourceError("\n".join([f"{path}: {len(lines)} problem(s)", *lines])) from error


def resolve_root(description: FolderDescription, path: Path) -> Path:
    """The folder that holds the files.

    ``${NAME}`` is replaced by an environment variable; a relative root is taken from the folder
    of the description.

    Args:
        description: What was read.
        path: The file it was read from.

    Raises:
        SourceError: If a variable is not set or the folder does not exist.
    """

    def value_of(match: re.Match[str]) -> str:
        name = match.group(1)
        if not os.environ.get(name):
            raise SourceError(
                f"{path}: root = {description.root}: the environment variable {name} is not set; "
                f"export {name}=<folder with the images>"
            )
        return os.environ[name]

    root = path.parent / Path(_VARIABLE.sub(value_of, description.root)).expanduser()
    if not root.is_dir():
        raise SourceError(
            f"{path}: root = {description.root}: {root.resolve()} is no folder; "
            "mend root, or mount the folder on this machine"
        )
    return root.resolve()


def _explain(item: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"  {name}: unknown field; remove it or see docs/howto-your-own-folder.md"
    if item["type"] == "missing":
        return f"  {name}: missing; add it (docs/howto-your-own-folder.md)"
    found = "" if isinstance(item["input"], dict) else f" = {item['input']!r}"
    return f"  {name or 'file'}{found}: {str(item['msg']).removeprefix('Value error, ')}"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NormalsFiles(_Part):
    """8-bit RGB PNG, n = 2 v / 255 - 1, (0, 0, 0) = invalid."""

    pattern: str
    x: Literal["right", "left"] = Field(default="right", description="Where red grows.")
    y: Literal["up", "down"] = Field(default="up", description="Where green grows.")
    z: Literal["toward", "away"] = Field(default="toward", description="Where blue grows.")

    @property
    def signs(self) -> tuple[float, float, float]:
        """Factors that bring x, y, z into the project's frame (right, up, toward the camera)."""
        return (
            1.0 if self.x == "right" else -1.0,
            1.0 if self.y == "up" else -1.0,
            1.0 if self.z == "toward" else -1.0,
        )


class DepthFiles(_Part):
    """16-bit grey PNG, 0 = invalid."""

    pattern: str
    unit: Literal["mm", "cm", "m"] | Annotated[float, Field(gt=0.0)] = Field(
        default="mm", description="Length of one step: mm, cm, m, or a number of metres."
    )
    max_m: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="Greater depths, in metres, are invalid."
    )

    @property
    def metres_per_step(self) -> float:
        """Metres that one step of the stored integer stands for."""
        return METRES_PER_STEP[self.unit] if isinstance(self.unit, str) else self.unit


class SemsegFiles(_Part):
    """8-bit grey or palette PNG of class ids."""

    pattern: str
    num_classes: Annotated[int, Field(ge=2, le=IGNORE_ID)] = Field(
        description="Classes after the offset, ids from 0."
    )
    ignore: tuple[int, ...] = Field(default=(), description="Stored ids that are not scored.")
    id_offset: int = Field(default=0, description="Added to every other stored id.")


class LabelFiles(_Part):
    """Label files by task."""

    normals: NormalsFiles | None = None
    depth: DepthFiles | None = None
    semseg: SemsegFiles | None = None

    def of(self, task: Task) -> NormalsFiles | DepthFiles | SemsegFiles | None:
        """Files of one task, if described."""
        files: NormalsFiles | DepthFiles | SemsegFiles | None = getattr(self, task)
        return files


class HoldOut(_Part):
    """Part of the train split that is set aside: every n-th block of neighbouring keys."""

    every: Annotated[int, Field(ge=2)]
    block: PositiveInt = Field(
        default=1, description="Neighbours kept together; raise it if neighbours look alike."
    )


class Keys(_Part):
    """Which keys a split has; exactly one way to say it."""

    list: str | None = Field(default=None, description="Text file, a key a line.")
    range: tuple[int, int] | None = Field(default=None, description="First and last number.")
    digits: PositiveInt = Field(default=4, description="Digits of the numbers of a range.")
    all: Literal[True] | None = Field(default=None, description="Every file of the pattern.")
    hold_out: HoldOut | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Keys:
        ways = {"list", "range", "all", "hold_out"} & self.model_fields_set
        if len(ways) != 1:
            found = " and ".join(sorted(ways)) or "none"
            raise ValueError(f"give exactly one of list, range, all, hold_out; found {found}")
        return self


class Splits(_Part):
    """Keys by split."""

    train: Keys
    validation: Keys | None = None
    test: Keys | None = None

    @model_validator(mode="after")
    def _train_is_given(self) -> Splits:
        if self.train.hold_out:
            raise ValueError("train cannot be held out of itself; give list, range or all")
        return self


class FolderDescription(_Part):
    """A whole description."""

    name: str = "folder"
    root: str
    image: str = Field(description="Pattern of the images, PNG or JPEG, with {key}.")
    caption: str | None = Field(default=None, description="Pattern of text files with {key}.")
    labels: LabelFiles
    splits: Splits
    size: tuple[PositiveInt, PositiveInt] = Field(description="Height and width to resize to.")
    fit: Literal["crop", "stretch"] = Field(
        default="crop", description="crop: cut the middle to the aspect of size; stretch: do not."
    )

    @model_validator(mode="after")
    def _patterns_hold_key(self) -> FolderDescription:
        described = {"image": self.image, "caption": self.caption}
        for task in ("normals", "depth", "semseg"):
            files = self.labels.of(task)
            described[f"labels.{task}.pattern"] = files.pattern if files else None
        for name, pattern in described.items():
            if pattern is not None and pattern.count("{key}") != 1:
                raise ValueError(f"{name} = {pattern!r} has to hold {{key}} once")
        return self
