"""An ablation: rows that differ in a few values of one complete run, over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from schemas.config_base import Count, Section
from schemas.config_method import SCORING_FIELDS, plays_no_part_in_training
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
        scored_with: Row whose weights this one scores with other values of ``SCORING_FIELDS``;
            nothing is trained for it, and ``result`` is that of the other row.
        against: Row that it is compared with; None: as the table says.
        set: ``section.field`` to value, on top of the base configuration; of a row that is scored
            with the weights of another, on top of that row's.
        paper: Metric to the figure that the paper gives for its own data; in a table of several
            tasks, task to its figure.
    """

    name: str = Field(min_length=1)
    result: ResultRow = "self_improved"
    donor: str | None = None
    scored_with: str | None = None
    against: str | None = None
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
        tasks: Tasks that are shown: all metrics of one (``task: depth`` is short for it), or the
            headline metric of each of several.
        baseline: Task to the row that has the score of its single-task model: the table gives Δm
            against these; empty: against the first row.
        paper_source: Where the paper's figures come from.
        rows: Rows in the order of the table.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    title: str
    base: str
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[Count, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    tasks: tuple[Task, ...] = Field(default=("normals",), min_length=1)
    baseline: dict[Task, str] = Field(default_factory=dict)
    paper_source: str = ""
    rows: tuple[AblationRow, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_task(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or "task" not in tree:
            return tree
        if "tasks" in tree:
            raise ValueError("task, tasks: found both; task: NAME is short for tasks: [NAME]")
        return {"tasks": [tree["task"]]} | {k: v for k, v in tree.items() if k != "task"}

    @field_validator("rows")
    @classmethod
    def _rows_fit(cls, rows: tuple[AblationRow, ...]) -> tuple[AblationRow, ...]:
        names = [row.name for row in rows]
        if len(set(names)) != len(names):
            raise ValueError(f"rows: wanted different names, found {names}")
        trained = {row.name: row for row in rows if row.scored_with is None}
        unknown = [row.donor for row in rows if row.donor not in (None, *trained)]
        if unknown:
            raise ValueError(f"rows: wanted donors among {list(trained)}, found {unknown}")
        unknown = [row.against for row in rows if row.against not in (None, *names)]
        if unknown:
            raise ValueError(f"rows: wanted against to name one of {names}, found {unknown}")
        return tuple(_scored(row, trained) for row in rows)

    @model_validator(mode="after")
    def _baseline_fits(self) -> Ablation:
        if twice := [task for task in self.tasks if self.tasks.count(task) > 1]:
            raise ValueError(f"tasks: {twice[0]} is given twice; name each task once")
        if self.baseline and set(self.baseline) != set(self.tasks):
            raise ValueError(
                f"baseline: wanted a row for each of {list(self.tasks)}, found "
                f"{list(self.baseline)}; name one for each task of the table"
            )
        names = [row.name for row in self.rows]
        if unknown := [name for name in self.baseline.values() if name not in names]:
            raise ValueError(f"baseline: wanted rows among {names}, found {unknown}")
        return self

    def compared_with(self, row: AblationRow) -> dict[Task, str]:
        """Task to the row that a row is compared with."""
        if row.against is not None:
            return dict.fromkeys(self.tasks, row.against)
        return self.baseline or dict.fromkeys(self.tasks, self.rows[0].name)


def _scored(row: AblationRow, trained: dict[str, AblationRow]) -> AblationRow:
    """A row as it is, or with the result of the row whose weights it scores.

    Raises:
        ValueError: If there is no such row, or it would have to be trained another way.
    """
    if row.scored_with is None:
        return row
    where = f"rows: {row.name}: scored_with = {row.scored_with}"
    if row.scored_with not in trained:
        raise ValueError(f"{where}: wanted a row that trains, one of {list(trained)}")
    if given := row.model_fields_set & {"result", "donor"}:
        raise ValueError(f"{where}: {sorted(given)} are those of that row; leave them out")
    if wrong := [name for name in row.set if not plays_no_part_in_training(name)]:
        raise ValueError(
            f"{where}, set: {wrong} decide what is trained; wanted only fields among "
            f"{list(SCORING_FIELDS)}; or leave scored_with out, and the row is trained"
        )
    return row.model_copy(update={"result": trained[row.scored_with].result})


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
