"""A look at some samples of every split of a source, before anything is learnt from them."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from schemas.sample import TASKS, Sample, Task
from sources.folder import FolderSource
from sources.parts import partly_labelled, parts_of
from sources.report.files import Place, describe_turned, equal_files, stored_lengths
from sources.report.oddities import (
    Expected,
    describe_counts,
    describe_oddities,
    find_errors,
    unseen_classes,
)
from sources.report.tally import SplitTally, tally_sample
from sources.spread import some_shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from schemas.sample import SourceShard, UnreadableSample
    from sources.folder_description import LabelFiles
    from sources.protocol import LabelledSource, Split

LOOKED_AT = 96
LEAST_LOOKED_AT = 16
TELLING = 256
_PATIENCE_S = 2.0
_LONG_PATIENCE_S = 20.0
_LISTED = 5
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """What was found.

    Attributes:
        source: Name of the source.
        sizes: Samples of each split, looked at or not.
        tallies: What was counted of those looked at.
        warnings: What is odd, each text with a remedy.
        errors: Why training or scoring cannot work, each text with a remedy.
        unseen: Classes of ``semseg`` that no sample looked at shows, by split.
        labels: Labels of each task and split, of all samples, as far as that is known unread.
        notes: What the source says of itself.
    """

    source: str
    sizes: dict[Split, int]
    tallies: dict[Split, SplitTally]
    warnings: tuple[str, ...]
    errors: tuple[str, ...]
    unseen: dict[Split, list[int]]
    labels: dict[Split, dict[Task, int]]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For a terminal: what was looked at, counts and ranges of labels, what is odd."""
        looked_at = ", ".join(
            f"{tally.images + tally.num_failed} of {self.sizes[split]} {split}"
            for split, tally in self.tallies.items()
        )
        told = describe_counts({"train": self.tallies["train"]})
        ranges = told[told.index("") + 1 :]
        return [
            f"data of {self.source}: looked at {looked_at}",
            *(
                f"labels of {split}: " + ", ".join(f"{task} {n}" for task, n in counts.items())
                for split, counts in self.labels.items()
            ),
            *ranges,
            *self.notes,
            *(f"error: {text}" for text in self.errors),
            *(f"warning: {text}" for text in self.warnings),
        ]

    def to_json(self) -> str:
        """As text for a file."""
        fields = ("source", "sizes", "errors", "warnings", "notes", "unseen", "labels", "tallies")
        return json.dumps({name: getattr(self, name) for name in fields}, default=vars, indent=1)


def report_of(
    source: LabelledSource,
    tasks: Sequence[Task],
    *,
    labels: LabelFiles | None = None,
    void_ids: Sequence[int] = (),
) -> DataReport:
    """Look at evenly spread samples of each split: at most 96 and about two seconds, 16 at least.

    Where it seems that training cannot work, up to 256 training samples are looked at before that
    is called an error.

    Args:
        tasks: What is to be learnt.
        labels: What the description of a folder says of its label files, for remedies.
        void_ids: Classes of ``semseg`` that have no pixels by design.

    Raises:
        SourceError: If a shard is missing or damaged.
    """
    looks = {split: _Look(source, split) for split in _SPLITS if source.shards(split)}
    for look in looks.values():
        look.at(LOOKED_AT, least=LEAST_LOOKED_AT, patience_s=_PATIENCE_S)
    labels_by_split = {split: _count_labels(source, split, tasks) for split in looks}
    expected = Expected(
        official_counts={},
        num_classes=source.num_classes if "semseg" in tasks else 0,
        size=source.image_size,
        folder=labels,
        void_ids=void_ids,
        is_sampled=not looks["train"].is_complete,
        partly={split: labels_by_split[split] for split in partly_labelled(source) & looks.keys()},
    )
    if "normals" in tasks and "train" in looks:
        _add_stored_lengths(looks["train"], source)
    if find_errors(_tallies(looks), tasks, expected):
        for look in looks.values():
            look.at(TELLING, least=TELLING // 4, patience_s=_LONG_PATIENCE_S)
    useless = find_errors(_tallies(looks), tasks, expected)
    usable = [task for task in tasks if not any(f": {task}: " in text for text in useless)]
    return DataReport(
        source=source.name,
        sizes={split: look.size for split, look in looks.items()},
        tallies=_tallies(looks),
        warnings=(
            *_failures(looks),
            *describe_oddities(_without_failed(_tallies(looks, usable)), expected),
            *_of_files(source, looks),
            *_describe_duplicates(looks, source),
        ),
        errors=(*_unreadable(looks), *useless),
        unseen={
            split: unseen_classes(look.tally, expected)
            for split, look in looks.items()
            if "semseg" in look.tally.tasks
        },
        labels=labels_by_split,
        notes=source.notes,
    )


class _Look:
    """A growing, evenly spread look at one split.

    Attributes:
        digests: Keys by the digest of their pixels.
        failures: What is wrong with the first sample of each reason.
    """

    def __init__(self, source: LabelledSource, split: Split) -> None:
        shards = source.shards(split)
        self.split, self.size = split, sum(len(shard.keys) for shard in shards)
        self.tally = SplitTally()
        self.digests: dict[str, list[str]] = defaultdict(list)
        self.failures: dict[str, str] = {}
        self._source = source
        self._order = _spread_order(some_shards(shards))
        self._next = 0

    @property
    def keys(self) -> list[str]:
        """Those looked at."""
        return [key for _, key in self._order[: self._next]]

    @property
    def is_complete(self) -> bool:
        return self._next == self.size

    def at(self, most: int, *, least: int, patience_s: float) -> None:
        """Look on until ``most`` samples were seen, or for some time if ``least`` were."""
        ends_s = time.monotonic() + patience_s
        for shard, key in self._order[self._next : most]:
            if self._next >= least and time.monotonic() > ends_s:
                return
            self._next += 1
            for found in self._source.read(shard, [key]):
                if isinstance(found, Sample):
                    self.tally.add(tally_sample(found, stored_size=found.image.shape[:2]))
                    self.digests[_digest(found.image)].append(found.key)
                else:
                    self.tally.failed[found.reason] += 1
                    self.failures.setdefault(found.reason, _cause(found, shard))


def _spread_order(shards: Sequence[SourceShard]) -> list[tuple[SourceShard, str]]:
    """All samples, so that those at the beginning of the list are spread evenly."""
    places = [(shard, key) for shard in shards for key in shard.keys]
    bits = max(len(places) - 1, 0).bit_length()
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)) if bits else iter([0])
    return [places[i] for i in order if i < len(places)]


def _tallies(looks: dict[Split, _Look], tasks: Sequence[Task] = TASKS) -> dict[Split, SplitTally]:
    """Tallies by split, with these tasks alone."""
    return {
        split: replace(
            look.tally,
            tasks={task: one for task, one in look.tally.tasks.items() if task in tasks},
        )
        for split, look in looks.items()
    }


def _cause(found: UnreadableSample, shard: SourceShard) -> str:
    """What is wrong with a sample, with the file's path."""
    if shard.uri in found.detail:
        return found.detail
    where = found.uri if found.uri != shard.uri else f"{shard.uri}: {found.key}"
    return f"{where}: {found.detail}"


def _without_failed(tallies: dict[Split, SplitTally]) -> dict[Split, SplitTally]:
    return {split: replace(tally, failed=Counter()) for split, tally in tallies.items()}


def _failures(looks: dict[Split, _Look]) -> Iterator[str]:
    for split, look in looks.items():
        if _is_mostly_unreadable(look):
            continue
        for reason, count in look.tally.failed.most_common():
            yield (
                f"{split}: {count} of {look.size} samples cannot be read ({reason}), the first is "
                f"{look.failures[reason]}; mend such files or take them out: until then a run "
                "goes on without these samples"
            )


def _unreadable(looks: dict[Split, _Look]) -> Iterator[str]:
    for split, look in looks.items():
        if _is_mostly_unreadable(look):
            failed, seen = look.tally.num_failed, look.tally.num_failed + look.tally.images
            count = f"none of {seen}" if failed == seen else f"{failed} of {seen}"
            found = "can" if failed == seen else "cannot"
            yield (
                f"{split}: {count} samples looked at {found} be read, the "
                f"first because of: {next(iter(look.failures.values()))}; mend "
                "these files, or name the right ones in the configuration's source"
            )


def _is_mostly_unreadable(look: _Look) -> bool:
    """A mistake in a description fails many samples alike; a damaged file fails its own."""
    return look.tally.num_failed > look.tally.images


def _count_labels(source: LabelledSource, split: Split, tasks: Sequence[Task]) -> dict[Task, int]:
    counts = Counter(
        task
        for shard in source.shards(split)
        for key in shard.keys
        for task in source.tasks_of(shard, key)
    )
    return {task: counts[task] for task in tasks}


def _add_stored_lengths(look: _Look, source: LabelledSource) -> None:
    if (tally := look.tally.tasks.get("normals")) is not None:
        files = (
            plain.label_file(key, "normals")
            for plain, key in _of_folders(source, look.keys)
            if "normals" in plain.tasks
        )
        tally.sums.update(stored_lengths(files))


def _of_files(source: LabelledSource, looks: dict[Split, _Look]) -> Iterator[str]:
    keys = [key for look in looks.values() for key in look.keys]
    yield from describe_turned(plain.image_file(key) for plain, key in _of_folders(source, keys))


def _of_folders(source: LabelledSource, keys: Iterable[str]) -> Iterator[tuple[FolderSource, str]]:
    """The samples that lie in folders of files: each folder, and the key there."""
    parts = parts_of(source)
    for key in keys:
        for plain, prefix in parts:
            if isinstance(plain, FolderSource) and key.startswith(prefix):
                yield plain, key.removeprefix(prefix)


def _describe_duplicates(looks: dict[Split, _Look], source: LabelledSource) -> list[str]:
    """Images that are the same in the pixels that are learnt from, or in bytes of their files."""
    across: set[tuple[str, str]] = set()
    within: dict[Split, dict[str, str]] = {}
    for (split, key), *others in _groups(looks, source):
        for other, twin in others:
            if other == split:
                within.setdefault(split, {})[twin] = key
            else:
                across.add((f"{split}/{key}", f"{other}/{twin}"))
    texts = [
        f"{one} and {other} are the same image; one must not be learnt from and scored: take one "
        "out"
        for one, other in sorted(across)[:_LISTED]
    ]
    if len(across) > _LISTED:
        texts.append(f"{len(across) - _LISTED} more images are in two splits")
    for split, twins in within.items():
        twin, key = next(iter(twins.items()))
        texts.append(
            f"{split}: {len(twins)} of {looks[split].size} images are copies of others, such as "
            f"{twin} of {key}; take copies out, they count twice"
        )
    return texts


def _groups(looks: dict[Split, _Look], source: LabelledSource) -> Iterator[list[Place]]:
    places: dict[str, list[Place]] = defaultdict(list)
    for split, look in looks.items():
        for digest, keys in look.digests.items():
            places[digest] += [(split, key) for key in keys]
    yield from places.values()
    yield from equal_files(
        {
            (split, key): plain.image_file(own)
            for split in looks
            for shard in source.shards(split)
            for key in shard.keys
            for plain, own in _of_folders(source, [key])
        }
    )


def _digest(image: Any) -> str:
    return hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).hexdigest()
