"""Whether captions that are not generated are there: those of a file, and the source's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.make.caption import shards_without_captions
from schemas.errors import ConfigError
from schemas.paths import resolve_path
from schemas.sample import CAPTION_ERROR, Sample
from sources.spread import evenly

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from schemas.sample import SourceShard
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore

LOOKED_AT = 8


def expect_captions(config: RunConfig, store: RunStore, source: LabelledSource) -> list[str]:
    """Look for the captions of all training images that the run has not captioned yet.

    Returns:
        A remark on captions that are missing, if a run bears it.

    Raises:
        ConfigError: If the file cannot be read, or lacks so many captions that generation stops.
    """
    shards = shards_without_captions(store, source.shards("train"))
    if not shards:
        return []
    if config.model.captioner == "file":
        return _entries(config, [key for shard in shards for key in shard.keys])
    return _own_captions(config, source, shards[0]) if config.model.captioner == "source" else []


def _entries(config: RunConfig, keys: list[str]) -> list[str]:
    from perception.file_captions import FileCaptions

    path = config.model.captioner_path
    try:
        captions = FileCaptions.load(resolve_path(path))
    except ConfigError as error:
        raise ConfigError(f"model.captioner_path = {path}: {error}") from error
    missing = [key for key in keys if captions.find(key) is None]
    empty = [key for key in keys if captions.find(key) == ""]
    remarks = []
    if empty:
        remarks.append(
            f"model.captioner_path = {path}: {len(empty)} of {len(keys)} training images have an "
            f"empty caption, the first is {empty[0]!r}; synthesis has no text to follow for them"
        )
    if not missing:
        return remarks
    text = (
        f"model.captioner_path = {path}: {len(missing)} of {len(keys)} training images have no "
        f"caption there, the first is {missing[0]!r} (found names such as "
        f"{min(captions.captions)!r})"
    )
    if len(missing) < len(keys) * config.generation.max_failed_fraction:
        return [*remarks, f"{text}; nothing is made from them"]
    raise ConfigError(
        f"{text}; name the captions by these keys, add the missing ones, or choose another "
        "model.captioner"
    )


def _own_captions(config: RunConfig, source: LabelledSource, shard: SourceShard) -> list[str]:
    """Remarks on the captions of some samples.

    Raises:
        ConfigError: If so many cannot be read that generation stops.
    """
    found = source.read(shard, evenly(shard.keys, LOOKED_AT))
    samples = [sample for sample in found if isinstance(sample, Sample)]
    wrong = [str(each.meta[CAPTION_ERROR]) for each in samples if CAPTION_ERROR in each.meta]
    remarks = []
    if wrong:
        text = (
            f"model.captioner = source: {len(wrong)} of {len(samples)} captions looked at cannot "
            f"be used: {wrong[0]}"
        )
        if len(wrong) >= len(samples) * config.generation.max_failed_fraction:
            raise ConfigError(f"{text}; or choose another model.captioner")
        remarks.append(f"{text}; nothing is made from them")
    empty = [
        sample.key for sample in samples if not sample.caption and CAPTION_ERROR not in sample.meta
    ]
    if not empty:
        return remarks
    return [
        *remarks,
        f"model.captioner = source: {len(empty)} of {len(samples)} training images looked at have "
        f"no caption, the first is {empty[0]!r}; synthesis has no text to follow for them",
    ]
