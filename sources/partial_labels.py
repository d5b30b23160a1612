"""A source of which some training labels are left out: dealt among tasks, or named by a list.

A deal depends on its seed, on the keys of the whole train split and on the tasks of their labels:
not on the order of files, nor on ``num_labelled`` and ``method.tasks``. So fewer images have the
labels that they have among more, and a run of one task sees its own share alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from schemas.digest import sha256_of
from schemas.errors import ConfigError
from schemas.paths import resolve_path
from schemas.plain_files import read_plain, why_not
from schemas.sample import TASKS, Sample, SourceShard, Task
from sources.protocol import Split

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from schemas.config_source import LabelsSection
    from schemas.sample import UnreadableSample
    from sources.protocol import DealtSource

Deal = dict[str, tuple[Task, ...]]
"""Key to the tasks whose labels are learnt from, in the order of ``TASKS``."""

_FORM = 'write {"<key>": ["<task>", ...]}'
_LISTED = 3


def deal_one(there: Mapping[str, Collection[Task]], tasks: Sequence[Task], seed: int) -> Deal:
    """Give every image one of the labels that it has, of each task as many.

    Images are taken in the order of a hash of seed and key, those with the fewest labels first,
    and each goes to the task that has the fewest so far. Where all images have all labels the
    counts differ by at most one.

    Args:
        there: Key to the tasks that the image has labels of.
        tasks: Tasks among which labels are dealt.

    Returns:
        A deal for all keys; an image that has none of the labels gets none.
    """
    choices = _choices(there, tasks)
    counts = Counter(dict.fromkeys(tasks, 0))
    found: Deal = {}
    for key in sorted(choices, key=lambda each: (len(choices[each]), _hash(seed, each))):
        task = min(choices[key], key=lambda each: counts[each], default=None)
        found[key] = () if task is None else (task,)
        counts.update(found[key])
    return found


def deal_random(there: Mapping[str, Collection[Task]], tasks: Sequence[Task], seed: int) -> Deal:
    """Leave every image of its n labels a random subset of K ~ U{1, ..., n - 1}; of one that one.

    What an image gets depends on no other image.

    Args:
        there: Key to the tasks that the image has labels of.
        tasks: Tasks among which labels are dealt.
    """
    found: Deal = {}
    for key, choices in _choices(there, tasks).items():
        count = 1 + _hash(seed, key) % max(len(choices) - 1, 1)
        ranks = {task: _hash(seed, key, task) for task in choices}
        found[key] = _in_order(sorted(choices, key=ranks.__getitem__)[:count])
    return found


def read_list(path: str, *, field: str) -> tuple[Deal, str]:
    """Read which labels of which images are learnt from.

    Args:
        path: A JSON file ``{key: [task, ...]}``.
        field: What names it, for messages.

    Returns:
        The list, and the digest of the file.

    Raises:
        ConfigError: If it cannot be read, or holds something else.
    """
    try:
        data = read_plain(Path(resolve_path(path)).expanduser())
        tree: Any = json.loads(data)
    except OSError as error:
        raise ConfigError(f"{field} = {path}: {why_not(error)}; {_FORM} there") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{field} = {path}: wanted JSON, found {error!s:.200}; {_FORM}"
        ) from error
    if not isinstance(tree, dict) or not all(isinstance(each, list) for each in tree.values()):
        raise ConfigError(f"{field} = {path}: wanted a list of tasks for each key; {_FORM}")
    named = {task: key for key, listed in tree.items() for task in map(str, listed)}
    if unknown := [task for task in named if task not in TASKS]:
        raise ConfigError(
            f"{field} = {path}: {named[unknown[0]]!r:.80}: unknown task {unknown[0]!r:.80}; known: "
            f"{', '.join(TASKS)}"
        )
    return {key: _in_order(listed) for key, listed in tree.items()}, sha256_of(data)


class PartialLabels:
    """Leaves labels of training images out; all other splits keep theirs.

    Attributes:
        whole: The source with all labels.
        whole_train: See :class:`sources.protocol.DealtSource`.
        reading: What decides it beside the configuration: the digest of a list.
    """

    def __init__(
        self, source: DealtSource, labels: LabelsSection, tasks: Sequence[Task], *, field: str
    ) -> None:
        """Deal the labels; nothing is read but a list.

        Args:
            tasks: Tasks that are read.
            field: Path of ``labels`` in the configuration, for messages.

        Raises:
            ConfigError: If a list cannot be used, or a task remains that nobody labels.
        """
        self.whole = source
        self.reading: dict[str, Any] = {}
        self._field = field
        self._labels = labels
        self._tasks = tuple(tasks)
        self._expect_tasks()
        self.whole_train = self._deal()
        self._kept = {
            (shard.name, key): tuple(t for t in tasks if t in self.whole_train.get(key, ()))
            for shard in source.shards("train")
            for key in shard.keys
        }
        self._train = source.shards("train")
        if labels.drops_unlabelled:
            self._train = tuple(filter(None, map(self._labelled, self._train)))
        self._expect_labels()

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
        """The source's; of train, if so configured, without images that have no label left."""
        return self._train if split == "train" else self.whole.shards(split)

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples; see :class:`sources.protocol.LabelledSource`."""
        for found in self.whole.read(shard, keys):
            kept = self._kept.get((shard.name, found.key))
            if kept is None or not isinstance(found, Sample):
                yield found
            else:
                labels = {task: label for task, label in found.labels.items() if task in kept}
                yield replace(found, labels=labels)

    def tasks_of(self, shard: SourceShard, key: str) -> tuple[Task, ...]:
        """Those whose labels are left."""
        kept = self._kept.get((shard.name, key))
        return self.whole.tasks_of(shard, key) if kept is None else kept

    def _deal(self) -> Mapping[str, tuple[Task, ...]]:
        labels, there = self._labels, self.whole.whole_train
        if labels.regime == "one":
            return deal_one(there, labels.tasks, labels.seed)
        if labels.regime == "random":
            return deal_random(there, labels.tasks, labels.seed)
        if labels.file is None:
            return there
        field = f"{self._field}.file"
        listed, self.reading["labels.file"] = read_list(labels.file, field=field)
        self._expect_keys(listed, field)
        return {
            key: tuple(task for task in listed.get(key, ()) if task in tasks)
            for key, tasks in there.items()
        }

    def _labelled(self, shard: SourceShard) -> SourceShard | None:
        keys = tuple(key for key in shard.keys if self._kept[shard.name, key])
        return replace(shard, keys=keys) if keys else None

    def _expect_tasks(self) -> None:
        """Check that labels are dealt among all tasks that are read.

        Raises:
            ConfigError: If not.
        """
        dealt = self._labels.tasks
        missing = [task for task in self._tasks if task not in dealt]
        if self._labels.is_dealt and missing:
            raise ConfigError(
                f"{self._field}.tasks = {list(dealt)}: nobody labels {', '.join(missing)} of "
                f"method.tasks; add {'it' if len(missing) == 1 else 'them'}, or take "
                f"{', '.join(missing)} out of method.tasks"
            )
        there = {task for tasks in self.whole.whole_train.values() for task in tasks}
        if self._labels.is_dealt and (unknown := [task for task in dealt if task not in there]):
            raise ConfigError(
                f"{self._field}.tasks = {list(dealt)}: no training image has a label of "
                f"{', '.join(unknown)}; take {'it' if len(unknown) == 1 else 'them'} out"
            )

    def _expect_keys(self, listed: Deal, field: str) -> None:
        """Check that a list names images of the source, of whichever split.

        Raises:
            ConfigError: If not.
        """
        shards = [shard for split in get_args(Split) for shard in self.whole.shards(split)]
        known = {key for shard in shards for key in shard.keys} | self.whole.whole_train.keys()
        unknown = [key for key in listed if key not in known]
        if unknown:
            raise ConfigError(
                f"{field} = {self._labels.file}: {len(unknown)} of {len(listed)} keys are not in "
                f"source {self.name}, such as {', '.join(map(repr, unknown[:_LISTED])):.300} "
                f"(found keys such as {min(known, default='none')!r}); name images by their keys, "
                "or take these out"
            )

    def _expect_labels(self) -> None:
        """Check that each task has labels to learn from.

        Raises:
            ConfigError: If not.
        """
        used = [self._kept[shard.name, key] for shard in self._train for key in shard.keys]
        counts = Counter(task for tasks in used for task in tasks)
        if nobody := [task for task in self._tasks if not counts[task]]:
            number = sum(len(shard.keys) for shard in self.whole.shards("train"))
            raise ConfigError(
                f"{self._field}.regime = {self._labels.regime}: nobody labels "
                f"{', '.join(nobody)} in the {number} images of train; "
                + ("name such labels in the list" if self._labels.file else "use more images")
                + f", or take {', '.join(nobody)} out of method.tasks"
            )


def _choices(there: Mapping[str, Collection[Task]], tasks: Sequence[Task]) -> Deal:
    dealt = _in_order(tasks)
    return {key: tuple(task for task in dealt if task in has) for key, has in there.items()}


def _in_order(tasks: Collection[Task]) -> tuple[Task, ...]:
    return tuple(task for task in TASKS if task in tasks)


def _hash(seed: int, *parts: str) -> int:
    """A number that is the same on every machine."""
    text = "/".join([str(seed), *parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
