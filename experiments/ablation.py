"""An ablation: rows that differ in a few values of one complete run, over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from schemas.config_base import Count, Section
from schemas.errors import ConfigError
from schemas.problems import describe_problems
from schemas.sample import Task
from schemas.stages import ResultRow
from schemas.yaml_text import parse_yaml


class AblationRow(Section, fields_are="science"):
    """One row of the table.

    Attributes:
        name: As the table shows it.
        result: Weights that are scored; only the stages that they need are run.
        donor: Row of the same seed whose synthetic samples this one learns from.
        set: ``section.field`` to value, on top of the base configuration.
        paper: Metric to the figure that the paper gives for its own data.
    """

    name: str = Field(min_length=1)
    result: ResultRow = "self_improved"
    donor: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    paper: dict[str, float] = Field(default_factory=dict)


class Ablation(Section, fields_are="science"):
    """A table to make.

    Attributes:
        name: Names its folder; letters, digits, ``_`` and ``-``.
        title: What is compared.
        base: Path of the complete run configuration that all rows start from.
        set: Changes to it that all rows share.
        seeds: Seeds of ``run.seed``.
        task: Task whose metrics are shown.
        paper_source: Where the paper's figures come from.
        rows: Rows in the order of the table.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    title: str
    base: str
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[Count, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    task: Task = "normals"
    paper_source: str = ""
    rows: tuple[AblationRow, ...] = Field(min_length=1)

    @field_validator("rows")
    @classmethod
    def _names_differ(cls, rows: tuple[AblationRow, ...]) -> tuple[AblationRow, ...]:
        names = [row.name for row in rows]
        if len(set(names)) != len(names):
            raise ValueError(f"rows: wanted different names, found {names}")
        unknown = [row.donor for row in rows if row.donor not in (None, *names)]
        if unknown:
            raise ValueError(f"rows: wanted donors among {names}, found {unknown}")
        return rows


def load_ablation(path: str | Path) -> Ablation:
    """Read an ablation's YAML.

    Raises:
        ConfigError: Naming the file, the field, what was found, and what to do.
    """
    file = Path(path)
    try:
        tree = parse_yaml(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: {error}; name a YAML such as configs/ablations/*.yaml"
        ) from None
    try:
        return Ablation.model_validate(tree)
    except ValidationError as error:
        text = describe_problems(path, error, Ablation, page="configs/ablations/")
        raise ConfigError(text) from None
