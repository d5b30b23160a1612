"""Whether the source has the samples that learning and scoring need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from sources.protocol import LabelledSource, Split

_LIMITS: dict[Split, str] = {
    "train": "num_labelled",
    "validation": "num_validation",
    "test": "num_test",
}


def expect_splits(source: LabelledSource, splits: Sequence[Split]) -> None:
    """Check that splits hold samples.

    Raises:
        ConfigError: If one is empty.
    """
    for split in splits:
        if not any(shard.keys for shard in source.shards(split)):
            purpose = "to learn from" if split == "train" else "to score"
            raise ConfigError(
                f"source {source.name}: wanted images of split {split} {purpose}, found none; "
                f"set source.{_LIMITS[split]} above 0, or describe such a split"
            )


def expect_unlabelled(config: RunConfig, source: LabelledSource) -> None:
    """Check that there are images without labels if they take the place of synthetic ones.

    Raises:
        SourceError: If there are too few.
    """
    if config.creator.kind == "unlabelled":
        from pipeline.make.real import UnlabelledPool

        UnlabelledPool(config, source)
