"""What an ablation has to do: runs, and the beginnings that several of them share.

Runs whose configurations agree in everything that decides a beginning (the warm-up, the first
round of images) adopt one that was made once. Folders are named by what decides their content, so
that equal rows of different ablations are one run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from schemas.config_base import values_of
from schemas.config_file import load_config
from schemas.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from experiments.ablation import Ablation
    from schemas.config import RunConfig
    from schemas.stages import ResultRow

Part = Literal["warm_up", "images", "run"]

_WARM_UP_FIELDS = (
    *("model.", "source.", "method.", "run.seed"),
    *("training.warm_up.", "training.hflip", "training.augmentation."),
)
_IMAGE_FIELDS = (
    *_WARM_UP_FIELDS,
    *("creator.", "plan.variants", "plan.unit_size", "labelling.", "screening."),
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
        _plan_run(ablation, index, seed, root=root, overrides=overrides)
        for seed in seeds or ablation.seeds
        for index, row in enumerate(ablation.rows)
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
    ablation: Ablation, index: int, seed: int, *, root: str, overrides: Sequence[str]
) -> AblationRun:
    row = ablation.rows[index]
    changes = {**ablation.set, **row.set, "run.seed": seed, "evaluation.control": False}
    texts = [f"{name}={json.dumps(value)}" for name, value in changes.items()]

    def config_at(path: str, *more: str) -> RunConfig:
        where = f"run.url={root.rstrip('/')}/{path}"
        return load_config(ablation.base, (*texts, *overrides, *more, where))

    if row.donor is not None:
        place = [each.name for each in ablation.rows].index(row.donor)
        donor = _plan_run(ablation, place, seed, root=root, overrides=overrides)
        texts.append(f"training.synthetic_run={json.dumps(donor.config.run.url)}")
    undecided = config_at("undecided")
    config = config_at(f"{row.result}/{part_key(undecided, 'run')}")
    warm_up = config_at(f"warm_up/{part_key(config, 'warm_up')}")
    images = None
    if row.result == "self_improved" and row.donor is None:
        images = config_at(f"images/{part_key(config, 'images')}")
    return AblationRun(
        row=row.name,
        seed=seed,
        result=row.result,
        config=config,
        warm_up=warm_up,
        images=images,
        needs_donor=row.donor is not None,
    )


def _without_lonely_images(run: AblationRun, runs: Sequence[AblationRun]) -> AblationRun:
    if run.images is None:
        return run
    sharing = [r for r in runs if r.images and r.images.run.url == run.images.run.url]
    if len(sharing) > 1:
        return run
    return replace(run, images=None)
