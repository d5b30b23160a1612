"""The YAML that describes a user's own folder of images and label maps."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.errors import SourceError
from schemas.plain_files import read_plain, why_not
from schemas.problems import describe_problems
from schemas.sample import IGNORE_ID, NUM_HUMAN_PARTS, TASKS, Task
from schemas.yaml_text import parse_yaml
from sources.class_colours import parse_colours
from sources.folder_patterns import Home, Patterns, expect_patterns

PositiveInt = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=1, le=16384)]
Number = Annotated[int, Field(ge=-10_000_000, le=10_000_000)]

METRES_PER_STEP = {"mm": 1e-3, "cm": 1e-2, "m": 1.0}
USUAL_DEPTH_M = (0.3, 90.0)
"""Where the median depth of photographs lies."""

_MAX_STEP_M = 1000.0
_FRACTION = re.compile(r"\s*(\d{1,6})\s*/\s*([1-9]\d{0,8})\s*")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def load_description(path: Path) -> FolderDescription:
    """Read and check a description.

    Raises:
        SourceError: If the file is missing or malformed; the message names file, field, value
            and remedy.
    """
    try:
        data = read_plain(path)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"source.description = {path}: {why_not(error)}; "
            "docs/howto-your-own-folder.md shows how to write one"
        ) from error
    try:
        tree = parse_yaml(data)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise SourceError(f"{path}: wanted fields such as root: and image:, found {tree!r:.200}")
    try:
        return FolderDescription.model_validate(tree)
    except ValidationError as error:
        page = "docs/howto-your-own-folder.md"
        text = describe_problems(path, error, FolderDescription, page=page, word="field")
        raise SourceError(text) from error


def resolve_root(description: FolderDescription, path: Path) -> Path:
    """The folder that holds the files.

    ``${NAME}`` is replaced by an environment variable; a relative root is taken from the folder
    of the description.

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
            f"{path}: root = {description.root:.200}: {root!s:.200} is no folder; "
            "correct root, or mount the folder on this machine"
        )
    return root.resolve()


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NormalsFiles(_Part):
    """Colour PNG, n = 2 v / 255 - 1, (0, 0, 0) = invalid, or files of vectors."""

    pattern: Patterns
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
    """16-bit grey PNG or files of numbers, 0 = invalid."""

    pattern: Patterns
    unit: Literal["mm", "cm", "m"] | float = Field(
        default="mm",
        description="Length of one step: mm, cm, m, a number of metres or a fraction (1/256).",
    )
    range: tuple[float, float] | None = Field(
        default=None,
        description="In place of unit: metres at 0 and at the greatest value that the bits hold.",
    )
    max_m: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="Greater depths, in metres, are invalid."
    )

    @field_validator("unit", mode="before")
    @classmethod
    def _unit_is_a_length(cls, unit: Any) -> str | float:
        if isinstance(unit, str) and unit in METRES_PER_STEP:
            return unit
        match = _FRACTION.fullmatch(unit) if isinstance(unit, str) else None
        metres = int(match[1]) / int(match[2]) if match else unit
        is_number = isinstance(metres, int | float) and not isinstance(metres, bool)
        if not is_number or not 0 < metres <= _MAX_STEP_M:
            raise ValueError(
                "wanted mm, cm, m, the metres of one step such as 0.0002, or a fraction of a metre "
                "such as 1/256"
            )
        return float(metres)

    @model_validator(mode="after")
    def _range_stands_alone(self) -> DepthFiles:
        if self.range and "unit" in self.model_fields_set:
            raise ValueError("range and unit exclude each other; give one")
        if self.range and not 0 <= self.range[0] < self.range[1]:
            raise ValueError("range: wanted [nearest, farthest] in metres, both from 0 on")
        return self

    @property
    def metres_per_step(self) -> float:
        """Metres of one step of the stored number."""
        return METRES_PER_STEP[self.unit] if isinstance(self.unit, str) else self.unit


class ClassFiles(_Part):
    """Grey or palette PNG of class ids, colour PNG of class colours, or files of numbers."""

    pattern: Patterns
    num_classes: Annotated[int, Field(ge=2, le=IGNORE_ID)] = Field(
        description="Classes after offset or map, ids from 0."
    )
    ignore: tuple[int, ...] = Field(
        default=(IGNORE_ID,),
        description="Stored ids that are not scored; absent: 255, unless id_map names it.",
    )
    id_offset: Annotated[int, Field(ge=-IGNORE_ID, le=IGNORE_ID)] = Field(
        default=0, description="Added to every other stored id."
    )
    id_map: dict[int, int] = Field(
        default_factory=dict, description="Stored id to class id, in place of id_offset."
    )
    colors: dict[str, int] = Field(
        default_factory=dict,
        description="Colours of the stored ids: a list, whose places are the ids, or a mapping.",
    )

    @model_validator(mode="before")
    @classmethod
    def _map_decides(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and "ignore" not in tree:
            id_map = tree.get("id_map")
            if isinstance(id_map, dict) and IGNORE_ID in id_map:
                return {**tree, "ignore": ()}
        return tree

    @field_validator("colors", mode="before")
    @classmethod
    def _colours_are_a_table(cls, table: Any) -> dict[str, int]:
        return parse_colours(table)

    @model_validator(mode="after")
    def _map_fits(self) -> ClassFiles:
        if self.id_map and self.id_offset:
            raise ValueError("id_map and id_offset exclude each other; give one")
        if twice := sorted(set(self.id_map) & set(self.ignore)):
            raise ValueError(f"{twice[0]} is in id_map and in ignore; give it once")
        for stored, class_id in self.id_map.items():
            if not 0 <= class_id < self.num_classes:
                raise ValueError(
                    f"id_map: {stored} becomes {class_id}, which is outside "
                    f"0..{self.num_classes - 1}; correct it, or put {stored} under ignore"
                )
        for colour, stored in self.colors.items():
            if stored not in self.ignore and not 0 <= self.class_of(stored) < self.num_classes:
                raise ValueError(
                    f"colors: {colour} is id {stored}, which becomes no class of "
                    f"0..{self.num_classes - 1}; correct it, or put {stored} under ignore"
                )
        return self

    def class_of(self, stored: int) -> int:
        """Class of a stored id that is not ignored; outside 0..num_classes - 1 if it has none."""
        return self.id_map.get(stored, -1) if self.id_map else stored + self.id_offset


class HumanPartFiles(ClassFiles):
    """The same for the seven parts of ``human_parts``."""

    num_classes: Annotated[int, Field(ge=NUM_HUMAN_PARTS, le=NUM_HUMAN_PARTS)] = NUM_HUMAN_PARTS


class ProbabilityFiles(_Part):
    """Grey PNG or a file of numbers: how surely a pixel is one."""

    pattern: Patterns
    max_value: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None,
        description="Stored value of probability 1; absent: 255 for grey, 1 for 1 bit and numbers.",
    )
    ignore: tuple[float, ...] = Field(default=(), description="Stored values that are not scored.")
    threshold: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(
        default=None, description="Probabilities above it become 1, the others 0."
    )


TaskFiles = NormalsFiles | DepthFiles | ClassFiles | ProbabilityFiles


class LabelFiles(_Part):
    """Label files by task."""

    normals: NormalsFiles | None = None
    depth: DepthFiles | None = None
    semseg: ClassFiles | None = None
    human_parts: HumanPartFiles | None = None
    saliency: ProbabilityFiles | None = None
    boundaries: ProbabilityFiles | None = None

    def of(self, task: Task) -> TaskFiles | None:
        """Files of one task, if described."""
        files: TaskFiles | None = getattr(self, task)
        return files

    def described(self) -> tuple[Task, ...]:
        """Tasks whose files are described."""
        return tuple(task for task in TASKS if self.of(task) is not None)


class HoldOut(_Part):
    """Part of the train split that is set aside: a share of the keys, or every n-th block."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        default=None,
        description="Share of the keys, chosen by their hash: images that are added or taken away "
        "later change nothing for the others.",
    )
    together: Literal["key", "folder"] = Field(
        default="key", description="folder: keys of one folder (a scene) are not parted."
    )
    every: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="Every n-th block of neighbouring keys, by place in the list."
    )
    block: PositiveInt = Field(
        default=1, description="Neighbours kept together; raise it if neighbours are alike."
    )

    @model_validator(mode="after")
    def _one_way(self) -> HoldOut:
        if (self.fraction is None) == (self.every is None):
            raise ValueError("give either fraction or every")
        if self.every is not None and self.together != "key":
            raise ValueError("together goes with fraction; every keeps a block together")
        if self.fraction is not None and self.block != 1:
            raise ValueError("block goes with every; with fraction say together: folder")
        return self


class Keys(_Part):
    """Which keys a split has; exactly one way to say it."""

    list: str | None = Field(default=None, description="Text file, a key or path a line.")
    columns: tuple[str, ...] | None = Field(
        default=None,
        description="What the columns of the list are: image and names of tasks, _ for others.",
    )
    range: tuple[Number, Number] | None = Field(default=None, description="First and last number.")
    digits: Annotated[int, Field(ge=1, le=20)] = Field(
        default=4, description="Digits of the numbers of a range."
    )
    all: Literal[True, "deep"] | None = Field(
        default=None,
        description="Every file of the pattern; deep: in folders below too, keys have slashes.",
    )
    hold_out: HoldOut | None = None
    folder: str | None = Field(default=None, description="What {split} stands for in patterns.")
    skip_unlabelled: bool = Field(
        default=False,
        description="Leave out images that lack the label file of a task; else they are refused.",
    )

    @model_validator(mode="before")
    @classmethod
    def _zeros_say_digits(cls, given: Any) -> Any:
        """Read ``range: [0001, 0794]`` as numbers of four digits."""
        ends = given.get("range") if isinstance(given, dict) else None
        if isinstance(ends, list) and "digits" not in given:
            lengths = {len(end) for end in ends if isinstance(end, str) and end.startswith("0")}
            if len(lengths) == 1:
                return {**given, "digits": lengths.pop()}
        return given

    @model_validator(mode="after")
    def _one_way(self) -> Keys:
        ways = {"list", "range", "all", "hold_out"} & self.model_fields_set
        if len(ways) != 1:
            found = " and ".join(sorted(ways)) or "none"
            raise ValueError(f"give exactly one of list, range, all, hold_out; found {found}")
        if self.columns is not None:
            self._expect_columns(self.columns)
        return self

    def _expect_columns(self, columns: tuple[str, ...]) -> None:
        unknown = [each for each in columns if each not in {"image", "_", *TASKS}]
        if unknown or columns.count("image") != 1 or self.list is None:
            raise ValueError(
                f"columns = {list(columns)}: wanted image once, and tasks or _, of a list"
            )


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

    def listed(self) -> dict[Home, Keys]:
        """The splits that are not held out of ``train``."""
        found: dict[Home, Keys | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return {home: keys for home, keys in found.items() if keys and not keys.hold_out}


class FolderDescription(_Part):
    """A whole description."""

    name: str = "folder"
    root: str
    image: Patterns = Field(description="Pattern of the images, with {key} and perhaps {split}.")
    caption: Patterns | None = Field(default=None, description="Pattern of text files.")
    labels: LabelFiles
    splits: Splits
    size: tuple[Pixels, Pixels] = Field(description="Height and width to resize to.")
    fit: Literal["crop", "stretch"] = Field(
        default="crop", description="crop: cut the middle to the aspect of size; stretch: do not."
    )

    @model_validator(mode="after")
    def _patterns_hold_key(self) -> FolderDescription:
        expect_patterns(self.image, "image")
        expect_patterns(self.caption, "caption")
        for task in TASKS:
            files = self.labels.of(task)
            expect_patterns(files.pattern if files else None, f"labels.{task}.pattern")
        return self
