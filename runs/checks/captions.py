"""Whether captions that are not generated are there: those of a file, and the source's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.make.caption import shards_without_captions
from schemas.errors import ConfigError
from schemas.paths import resolve_path
from schemas.sample import Sample

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
    return _own_captions(source, shards[0]) if config.model.captioner == "source" else []


def _entries(config: RunConfig, keys: list[str]) -> list[str]:
    from perception.file_captions import FileCaptions

    path = config.model.captioner_path
    known = FileCaptions.load(resolve_path(path)).captions
    missing = [key for key in keys if key not in known]
    if not missing:
        return []
    text = (
        f"model.captioner_path = {path}: {len(missing)} of {len(keys)} training images have no "
        f"caption there, the first is {missing[0]!r} (found keys such as {min(known)!r})"
    )
    if len(missing) < len(keys) * config.generation.max_failed_fraction:
        return [f"{text}; nothing is made from them"]
    raise ConfigError(
        f"{text}; name the captions by these keys, add the missing ones, or choose another "
        "model.captioner"
    )


def _own_captions(source: LabelledSource, shard: SourceShard) -> list[str]:
    step = max(len(shard.keys) // LOOKED_AT, 1)
    found = source.read(shard, shard.keys[::step][:LOOKED_AT])
    samples = [sample for sample in found if isinstance(sample, Sample)]
    empty = [sample.key for sample in samples if not sample.caption]
    if not empty:
        return []
    return [
        f"model.captioner = source: {len(empty)} of {len(samples)} training images looked at have "
        f"no caption, the first is {empty[0]!r}; synthesis has no text to follow for them"
    ]
