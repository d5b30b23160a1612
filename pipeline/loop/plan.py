"""Split a run's generation into units: a pure function of the configuration and the source."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from schemas.errors import SourceError
from schemas.text import number_of
from schemas.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from schemas.config import RunConfig
    from schemas.sample import SourceShard

_TAR_MEMBER_BYTES = 1024
_BYTES_PER_PIXEL: dict[str, float] = {
    "image": 2.2,
    "normals": 1.6,
    "depth": 1.2,
    "semseg": 0.2,
    "human_parts": 0.2,
    "saliency": 0.1,
    "boundaries": 0.2,
    "confidence": 0.6,
}
"""PNG sizes met on indoor scenes; estimates for the plan's summary only."""


def make_plan(config: RunConfig, source_shards: Sequence[SourceShard]) -> tuple[Unit, ...]:
    """List all units of a run in the order they are worked on.

    Round 0 makes images from every key. With ``plan.images = reuse`` each later round labels
    those images again; with ``fresh`` it makes new ones under another seed.

    Args:
        source_shards: Shards of the source's train split, in their order.

    Returns:
        Units, round by round; equal arguments give equal units with equal ids.

    Raises:
        SourceError: If two shards have one name or the shards hold no key.
    """
    _check_shards(source_shards)
    first = _synthesize_units(config, source_shards, round_index=0)
    units = list(first)
    for round_index in range(1, config.plan.rounds):
        if config.plan.images == "reuse":
            units += [_relabel(unit, round_index) for unit in first]
        else:
            units += _synthesize_units(config, source_shards, round_index=round_index)
    return tuple(units)


def round_seed(seed: int, round_index: int) -> int:
    """Derive the seed of a round's fresh images; round 0 keeps the run's seed."""
    if round_index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{round_index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _check_shards(shards: Sequence[SourceShard]) -> None:
    names = Counter(shard.name for shard in shards)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise SourceError(f"source shards: wanted unique names, found {twice} more than once")
    if not any(shard.keys for shard in shards):
        raise SourceError(
            "source: wanted at least one image in the train split, found none; "
            "look at source.root or source.description and source.num_labelled"
        )


def _synthesize_units(
    config: RunConfig, shards: Sequence[SourceShard], *, round_index: int
) -> list[Unit]:
    size, recipe_hash = config.plan.unit_size, config.recipe_hash
    seed = round_seed(config.run.seed, round_index)
    return [
        Unit(
            round=round_index,
            kind="synthesize",
            source_shard=shard.name,
            keys=tuple(shard.keys[start : start + size]),
            variants=config.plan.variants,
            seed=seed,
            recipe_hash=recipe_hash,
        )
        for shard in shards
        for start in range(0, len(shard.keys), size)
    ]


def _relabel(unit: Unit, round_index: int) -> Unit:
    return replace(unit, round=round_index, kind="relabel", parent_unit_id=unit.unit_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredCost:
    """What committed units of this run have cost, for estimates.

    Attributes:
        seconds_per_image: Generator seconds for one synthesised and labelled image.
        seconds_per_label: Generator seconds for labelling an image again.
        bytes_per_sample: Bytes of tar per kept sample.
    """

    seconds_per_image: float | None = None
    seconds_per_label: float | None = None
    bytes_per_sample: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSummary:
    """What a plan amounts to.

    Attributes:
        units: Units by round and kind, as ``(round, kind, units, samples)``.
        num_units: All units.
        num_samples: Samples when none fails, labels of every round counted.
        num_images: Images that are synthesised.
        num_committed: Units that are already committed.
        bytes_estimate: Bytes of all tars; None if nothing is known to tell it from.
        seconds_left: Generator seconds for the uncommitted units on one generator; None before
            anything was measured.
        num_generators: Generators that share ``seconds_left``.
    """

    units: tuple[tuple[int, str, int, int], ...]
    num_units: int
    num_samples: int
    num_images: int
    num_committed: int
    bytes_estimate: int | None
    seconds_left: float | None
    num_generators: int

    def lines(self) -> list[str]:
        """Say it in lines of text."""
        lines = [
            f"round {round_index}: {number_of(units, f'{kind} unit')}, {samples} samples"
            for round_index, kind, units, samples in self.units
        ]
        lines.append(
            f"all: {number_of(self.num_units, 'unit')} ({self.num_committed} committed), "
            f"{self.num_images} images to make, {self.num_samples} labelled samples"
        )
        if self.bytes_estimate is not None:
            lines.append(f"shards: about {self.bytes_estimate / 1e6:.1f} MB")
        if self.seconds_left is None:
            lines.append(
                "time: not known until the first unit is done; the same command tells it then"
            )
        else:
            share = self.seconds_left / self.num_generators
            lines.append(
                f"time: about {self.seconds_left:.0f} generator seconds left, "
                f"{share:.0f} s on {number_of(self.num_generators, 'generator')}"
            )
        return lines


def plan_summary(
    config: RunConfig,
    plan: Sequence[Unit],
    *,
    image_size: tuple[int, int] | None = None,
    committed: Iterable[str] = (),
    cost: MeasuredCost | None = None,
) -> PlanSummary:
    """Add up a plan.

    Args:
        image_size: Rows and columns of the images, for an estimate of their bytes.
        cost: What earlier units have cost, where known.

    Returns:
        The totals.
    """
    cost = cost or MeasuredCost()
    done = set(committed)
    per_sample = cost.bytes_per_sample
    if per_sample is None and image_size is not None:
        per_sample = _guess_sample_bytes(config, image_size)
    samples = sum(unit.num_samples for unit in plan)
    left = [unit for unit in plan if unit.unit_id not in done]
    return PlanSummary(
        units=_by_round(plan),
        num_units=len(plan),
        num_samples=samples,
        num_images=sum(unit.num_samples for unit in plan if unit.kind == "synthesize"),
        num_committed=len(plan) - len(left),
        bytes_estimate=None if per_sample is None else round(samples * per_sample),
        seconds_left=_seconds(left, cost),
        num_generators=config.generation.num_generators,
    )


def _by_round(plan: Sequence[Unit]) -> tuple[tuple[int, str, int, int], ...]:
    totals: dict[tuple[int, str], tuple[int, int]] = {}
    for unit in plan:
        units, samples = totals.get((unit.round, unit.kind), (0, 0))
        totals[unit.round, unit.kind] = (units + 1, samples + unit.num_samples)
    return tuple((*which, *counts) for which, counts in totals.items())


def _guess_sample_bytes(config: RunConfig, image_size: tuple[int, int]) -> float:
    members = ["image", *config.method.tasks, *("confidence" for _ in config.method.tasks)]
    per_pixel = sum(_BYTES_PER_PIXEL[name] for name in members)
    return image_size[0] * image_size[1] * per_pixel + (len(members) + 1) * _TAR_MEMBER_BYTES


def _seconds(units: Sequence[Unit], cost: MeasuredCost) -> float | None:
    images = sum(unit.num_samples for unit in units if unit.kind == "synthesize")
    labels = sum(unit.num_samples for unit in units if unit.kind == "relabel")
    if (images and cost.seconds_per_image is None) or (labels and cost.seconds_per_label is None):
        return None
    return images * (cost.seconds_per_image or 0.0) + labels * (cost.seconds_per_label or 0.0)
