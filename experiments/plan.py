"""What an ablation has to do: runs, and the beginnings that several of them share.

Runs whose configurations agree in everything that decides a beginning (the warm-up, the first
round of images) adopt one that was made once. Folders are named by what decides their content, so
that equal rows of different ablations are one run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from schemas.config_base import values_of
from schemas.config_file import load_config
from schemas.digest import digest_of
from schemas.errors import ConfigError
from schemas.run_layout import RESULTS_FILE, scores_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from experiments.ablation import Ablation, AblationRow
    from schemas.config import RunConfig
    from schemas.stages import ResultRow

Part = Literal["warm_up", "images", "run"]

_WARM_UP_FIELDS = (
    *("model.", "source.", "method.", "pairs.", "run.seed"),
    *("training.warm_up.", "training.hflip", "training.augmentation."),
)
_IMAGE_FIELDS = (
    *_WARM_UP_FIELDS,
    *("creator.", "training.creator.", "plan.variants", "plan.unit_size"),
    *("labelling.", "screening."),
)
_FIELDS: dict[Part, tuple[str, ...]] = {
    "warm_up": _WARM_UP_FIELDS,
    "images": _IMAGE_FIELDS,
    "run": ("",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationRun:
    """One run of one row.

    Attributes:
        row: Name of the row.
        seed: Its seed.
        result: Weights that the row shows.
        config: Complete configuration.
        warm_up: Complete configuration of the run whose warm-up it adopts.
        needs_donor: Whether it learns from the samples of another row.
        scored_as: Complete configuration that the run's weights are scored with once it has ended,
            its ``run.url`` that of the run; None: they are scored as they were trained.
        images: Complete configuration of the run whose first round it adopts; None if no other
            run makes the same images.
    """

    row: str
    seed: int
    result: ResultRow
    config: RunConfig
    warm_up: RunConfig
    images: RunConfig | None = None
    needs_donor: bool = False
    scored_as: RunConfig | None = None

    @property
    def results_file(self) -> str:
        """Where in the run's directory the row's scores are."""
        if self.scored_as is None:
            return RESULTS_FILE
        return scores_path(part_key(self.scored_as, "run"))


def plan_ablation(
    ablation: Ablation,
    root: str,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
) -> list[AblationRun]:
    """List the runs of an ablation, seed by seed, so that whole tables fill up early.

    Args:
        root: Folder or URL of all ablations' runs.
        rows: Only these rows; all if empty.
        seeds: Only these seeds; the ablation's if empty.
        overrides: ``section.field=value`` on top of every row.

    Raises:
        ConfigError: If a row's configuration is wrong.
    """
    runs = [
        _plan_run(ablation, row, seed, root=root, overrides=overrides)
        for seed in seeds or ablation.seeds
        for row in ablation.rows
        if not rows or row.name in rows
    ]
    return [_without_lonely_images(run, runs) for run in runs]


def part_key(config: RunConfig, part: Part) -> str:
    """Digest of everything that decides a part; equal keys give equal weights and images."""
    return digest_of(
        {
            path: value
            for path, kind, value in values_of(config)
            if kind == "science" and path.startswith(_FIELDS[part])
        }
    )


def _plan_run(
    ablation: Ablation, row: AblationRow, seed: int, *, root: str, overrides: Sequence[str]
) -> AblationRun:
    rows = {each.name: each for each in ablation.rows}
    trained = row if row.scored_with is None else rows[row.scored_with]
    changes = {**ablation.set, **trained.set, "run.seed": seed, "evaluation.control": False}
    texts = _as_overrides(changes)

    def config_at(path: str, *more: str) -> RunConfig:
        where = f"run.url={root.rstrip('/')}/{path}"
        return load_config(ablation.base, (*texts, *overrides, *more, where))

    if trained.donor is not None:
        donor = _plan_run(ablation, rows[trained.donor], seed, root=root, overrides=overrides)
        texts.append(f"training.synthetic_run={json.dumps(donor.config.run.url)}")
    undecided = config_at("undecided")
    place = f"{trained.result}/{part_key(undecided, 'run')}"
    config = config_at(place)
    warm_up = config_at(f"warm_up/{part_key(config, 'warm_up')}")
    images = None
    if trained.result == "self_improved" and trained.donor is None:
        images = config_at(f"images/{part_key(config, 'images')}")
    return AblationRun(
        row=row.name,
        seed=seed,
        result=trained.result,
        config=config,
        warm_up=warm_up,
        images=images,
        needs_donor=trained.donor is not None,
        scored_as=None if trained is row else config_at(place, *_as_overrides(row.set)),
    )


def _as_overrides(changes: Mapping[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in changes.items()]


def expect_tasks(ablation: Ablation, runs: Sequence[AblationRun]) -> None:
    """Check that every row predicts a task of the table, and those that it is a baseline of.

    Raises:
        ConfigError: If one does not.
    """
    for run in runs:
        found = run.config.method.tasks
        compared = [task for task, name in ablation.baseline.items() if name == run.row]
        if missing := [task for task in compared if task not in found]:
            raise ConfigError(
                f"baseline.{missing[0]} = {run.row!r}: that row has method.tasks = {list(found)}; "
                f"name one that predicts {missing[0]}"
            )
        if not set(found) & set(ablation.tasks):
            raise ConfigError(
                f"row {run.row!r}: method.tasks = {list(found)}: the table shows "
                f"{list(ablation.tasks)}; set the table's tasks, or the row's"
            )


def _without_lonely_images(run: AblationRun, runs: Sequence[AblationRun]) -> AblationRun:
    if run.images is None:
        return run
    sharing = {
        r.config.run.url for r in runs if r.images and r.images.run.url == run.images.run.url
    }
    if len(sharing) > 1:
        return run
    return replace(run, images=None)
