"""A source held to the splits that a run began with, whatever was added to it since.

What was learnt from must never be scored, and images that are made have captions of the samples
there were: so a run notes its splits, and each of its processes reads these.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar, get_args

from schemas.sample import Sample, SourceShard, UnreadableSample
from sources.protocol import Split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from schemas.sample import Task
    from sources.protocol import LabelledSource
    from storage.records.splits import SplitKeys

ADDED_SHARD_KEYS = 64
_LISTED = 5

Place = tuple[str, str]
T = TypeVar("T")


def keys_of(source: LabelledSource) -> SplitKeys:
    """The splits of a source as they are."""
    return {
        split: {shard.name: shard.keys for shard in source.shards(split)}
        for split in get_args(Split)
        if source.shards(split)
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What became of the samples that a run began with.

    Attributes:
        added: Keys that are new, by split.
        taken: Keys that are gone, by the split they were in.
        moved: Keys by the splits they were in and are in.
        edited: Keys whose files are others, by the split they were in.
        fields: How files are read otherwise, a text for each field of the description.
    """

    added: Mapping[str, Sequence[str]]
    taken: Mapping[str, Sequence[str]]
    moved: Mapping[tuple[str, str], Sequence[str]]
    edited: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fields: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.added) or not self.is_addition

    @property
    def is_addition(self) -> bool:
        """Whether all samples that there were are where and what they were."""
        return not (self.taken or self.moved or self.edited or self.fields)

    def describe(self) -> str:
        """Each part with its first keys."""
        parts = [f"{_some(keys)} added to {split}" for split, keys in self.added.items()]
        parts += [f"{_some(keys)} taken from {split}" for split, keys in self.taken.items()]
        parts += [
            f"{_some(keys)} moved from {old} to {new}" for (old, new), keys in self.moved.items()
        ]
        parts += [
            f"labels or images changed: {_some(keys)} in {split}"
            for split, keys in self.edited.items()
        ]
        parts += self.fields
        return "; ".join(parts)


def change_between(began: SplitKeys, now: SplitKeys) -> Change:
    """Compare two states of a source."""
    old, new = _by_place(began, now)
    return Change(
        added=_grouped({key: new[key] for key in new if key not in old}),
        taken=_grouped({key: old[key] for key in old if key not in new}),
        moved=_grouped({k: (old[k], new[k]) for k in old if k in new and old[k] != new[k]}),
    )


def with_additions(began: SplitKeys, now: SplitKeys) -> SplitKeys:
    """The splits of the beginning, and after them what is new in the train split.

    Shards of the beginning stay as they are, for units and captions are made of them: new samples
    among theirs come in shards of their own.
    """
    added = set(change_between(began, now).added.get("train", ()))
    train = dict(began["train"])
    loose: list[str] = []
    for shard, keys in now["train"].items():
        new = tuple(key for key in keys if key in added)
        if new == keys and shard not in train:
            train[shard] = keys
        else:
            loose += new
    number = sum(name.startswith("train-added-") for name in train)
    for start in range(0, len(loose), ADDED_SHARD_KEYS):
        train[f"train-added-{number:06d}"] = tuple(loose[start : start + ADDED_SHARD_KEYS])
        number += 1
    return {**began, "train": train}


class PinnedSource:
    """Reads the samples of given splits from a source that may hold others by now.

    Attributes:
        whole: That source.
    """

    def __init__(self, source: LabelledSource, splits: SplitKeys) -> None:
        """Take the place of a source.

        Args:
            splits: What each split is to hold.
        """
        self.whole = source
        shards = [shard for split in get_args(Split) for shard in source.shards(split)]
        self._places = {(shard.name, key): shard for shard in shards for key in shard.keys}
        self._by_key = {key: shard for shard in shards for key in shard.keys}
        uris = {shard.name: shard.uri for shard in shards}
        self._shards = {
            split: tuple(
                SourceShard(name=name, uri=uris.get(name, shards[0].uri), keys=keys)
                for name, keys in parts.items()
            )
            for split, parts in splits.items()
        }

    @property
    def name(self) -> str:
        """The source's."""
        return self.whole.name

    @property
    def image_size(self) -> tuple[int, int]:
        """The source's."""
        return self.whole.image_size

    @property
    def num_classes(self) -> int:
        """The source's."""
        return self.whole.num_classes

    @property
    def notes(self) -> tuple[str, ...]:
        """The source's."""
        return self.whole.notes

    def shards(self, split: Split) -> tuple[SourceShard, ...]:
        """The shards that the splits name."""
        return self._shards.get(split, ())

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples; see :class:`sources.protocol.LabelledSource`."""

        def place(key: str) -> SourceShard | None:
            return self._place(shard, key)

        for real, group in groupby(shard.keys if keys is None else keys, place):
            if real is not None:
                yield from self.whole.read(real, list(group))
                continue
            for key in group:
                yield UnreadableSample(
                    key=key,
                    uri=shard.uri,
                    reason="key_missing",
                    detail=f"{key}: it was in the source when the run began; put it back",
                )

    def tasks_of(self, shard: SourceShard, key: str) -> tuple[Task, ...]:
        """The source's; none of a sample that is gone."""
        real = self._place(shard, key)
        return self.whole.tasks_of(real, key) if real is not None else ()

    def _place(self, shard: SourceShard, key: str) -> SourceShard | None:
        return self._places.get((shard.name, key)) or self._by_key.get(key)


def _by_place(*states: SplitKeys) -> list[dict[Place, str]]:
    """Split of each sample, known by its key alone; by shard and key if a key comes twice."""
    counts = [
        Counter(key for shards in splits.values() for keys in shards.values() for key in keys)
        for splits in states
    ]
    is_unique = all(max(count.values(), default=1) == 1 for count in counts)
    return [
        {
            ("" if is_unique else shard, key): split
            for split, shards in splits.items()
            for shard, keys in shards.items()
            for key in keys
        }
        for splits in states
    ]


def _grouped(places: Mapping[Place, T]) -> dict[T, list[str]]:
    found: dict[T, list[str]] = {}
    for (_, key), group in places.items():
        found.setdefault(group, []).append(key)
    return found


def _some(keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > _LISTED else ""
    return f"{len(keys)} ({', '.join(keys[:_LISTED])}{more})"
