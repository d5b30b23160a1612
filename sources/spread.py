"""Some of many, evenly over all: neighbours are often frames of one scene."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from schemas.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.sample import SourceShard
    from sources.protocol import LabelledSource, Split

T = TypeVar("T")

_FILES = 8


def evenly(items: Sequence[T], limit: int) -> Sequence[T]:
    """Take ``limit`` items, evenly spaced, in order; all of them if there are no more."""
    if limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def some_shards(shards: Sequence[SourceShard]) -> Sequence[SourceShard]:
    """Some shards where each is a tar, for a tar is read whole; all where they are of one place."""
    return shards if len({shard.uri for shard in shards}) == 1 else evenly(shards, _FILES)


def spread_samples(source: LabelledSource, split: Split, limit: int) -> list[Sample]:
    """Read at most ``limit`` samples of a split; those that cannot be read are left out."""
    places = [(shard, key) for shard in some_shards(source.shards(split)) for key in shard.keys]
    found = (one for shard, key in evenly(places, limit) for one in source.read(shard, [key]))
    return [one for one in found if isinstance(one, Sample)]
