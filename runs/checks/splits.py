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
    most = config.source.num_labelled or 0
    found = sum(len(shard.keys) for shard in source.shards("train"))
    if most <= found:
        return []
    return [f"source.num_labelled = {most}: train has {found} images, all are used"]


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
    return f"set source.{_LIMITS[split]} above 0, or describe such a split"


def expect_unlabelled(config: RunConfig, source: LabelledSource) -> None:
    """Check that there are images without labels if they take the place of synthetic ones.

    Raises:
        SourceError: If there are too few.
    """
    if config.creator.kind == "unlabelled":
        from pipeline.make.real import UnlabelledPool

        UnlabelledPool(config, source)
