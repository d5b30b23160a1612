"""Whether the source has the samples that learning and scoring need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from schemas.errors import ConfigError
from schemas.paths import resolve_path
from sources.folder_description import load_description
from sources.protocol import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from schemas.config_source import PlainSource
    from sources.protocol import LabelledSource

_LIMITS: dict[Split, str] = {
    "train": "num_labelled",
    "validation": "num_validation",
    "test": "num_test",
}


def expect_splits(config: RunConfig, source: LabelledSource, splits: Sequence[Split]) -> None:
    """Check that splits hold samples.

    Raises:
        ConfigError: If one is empty.
    """
    for split in splits:
        if not any(shard.keys for shard in source.shards(split)):
            purpose = "to learn from" if split == "train" else "to score"
            raise ConfigError(
                f"source {source.name}: wanted images of split {split} {purpose}, found none; "
                + _remedy(config, source, split)
            )


def remarks_on_limits(config: RunConfig, source: LabelledSource) -> list[str]:
    """Whether there are fewer images to learn from than the configuration says."""
    keys = [key for shard in source.shards("train") for key in shard.keys]
    remarks = []
    for prefix, section in _plain_sections(config):
        found = sum(key.startswith(prefix) for key in keys)
        most = 0 if section.labels.drops_unlabelled else section.num_labelled or 0
        if most > found:
            member = f"member {prefix[:-1]}: " if prefix else ""
            remarks.append(
                f"{member}source.num_labelled = {most}: train has {found} images, all are used"
            )
    return remarks


def _plain_sections(config: RunConfig) -> list[tuple[str, PlainSource]]:
    """What keys begin with, and the section of the source that they are of."""
    if config.source.kind != "mix":
        return [("", config.source)]
    return [(each.prefix, each.source) for each in config.source.members]


def _remedy(config: RunConfig, source: LabelledSource, split: Split) -> str:
    is_limited = getattr(config.source, _LIMITS[split], None) == 0
    if config.source.kind == "folder" and split != "train" and not is_limited:
        file = Path(resolve_path(config.source.description))
        splits = load_description(file).splits
        keys = splits.validation if split == "validation" else splits.test
        if keys and (rule := keys.hold_out):
            given = f"every: {rule.every}" if rule.every else f"fraction: {rule.fraction}"
            used = sum(len(s.keys) for each in get_args(Split) for s in source.shards(each))
            return (
                f"{file}: splits.{split}.hold_out ({given}) takes none of the {used} images with "
                "labels; add images, or hold out more of them, such as every: 2"
            )
    where = " of a member" if config.source.kind == "mix" else ""
    return f"set source.{_LIMITS[split]}{where} above 0, or describe such a split"


def expect_unlabelled(config: RunConfig, source: LabelledSource) -> None:
    """Check that there are images without labels if they take the place of synthetic ones.

    Raises:
        SourceError: If there are too few.
    """
    if config.creator.kind == "unlabelled":
        from pipeline.make.real import UnlabelledPool

        UnlabelledPool(config, source)


def expect_gaps(config: RunConfig, source: LabelledSource) -> None:
    """Check that training images lack labels if a creator is to complete them.

    Raises:
        ConfigError: If all have all.
    """
    tasks = set(config.method.tasks)
    train = [(shard, key) for shard in source.shards("train") for key in shard.keys]
    if config.creator.kind == "completion" and all(
        tasks <= {*source.tasks_of(shard, key)} for shard, key in train
    ):
        raise ConfigError(
            f"creator.kind = completion: all {len(train)} training images have labels of all of "
            "method.tasks, so there is nothing to predict; leave labels out with "
            "source.labels.regime, or choose another creator"
        )


def expect_known_labels(config: RunConfig, source: LabelledSource) -> None:
    """Check that there are training images that pairs can be made from.

    Raises:
        ConfigError: If none has labels of all tasks.
    """
    creator, tasks = config.creator, set(config.method.tasks)
    if not creator.makes_maps or creator.starts_from == "nothing":
        return
    train = [(shard, key) for shard in source.shards("train") for key in shard.keys]
    if not any(tasks <= {*source.tasks_of(shard, key)} for shard, key in train):
        raise ConfigError(
            f"creator.known = {creator.starts_from}: wanted training images with labels of all of "
            f"method.tasks = {list(config.method.tasks)}, found none of {len(train)}; set "
            "creator.known=nothing and creator.t_start=1000, or ask for fewer tasks"
        )
