"""Several sources as one: each labels its own tasks, and together they label all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, get_args

import numpy as np

from schemas.errors import ConfigError
from schemas.sample import IGNORE_ID, Sample, SourceShard, Task, UnreadableSample
from sources.protocol import Split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from schemas.config_source import MixMember
    from sources.protocol import LabelledSource

_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Member:
    """One source of a mix, opened for those of its tasks that are read.

    Attributes:
        section: Its section of the configuration.
        source: The source.
        tasks: Tasks that are read of it.
    """

    section: MixMember
    source: LabelledSource
    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        """Its name in the mix."""
        return self.section.name

    @property
    def prefix(self) -> str:
        """What its keys begin with in the mix."""
        return self.section.prefix

    @property
    def class_map(self) -> Mapping[int, int]:
        """Class id of its ``semseg`` to that of the mix; empty: the same."""
        return self.section.class_map

    @property
    def num_classes(self) -> int:
        """One above the greatest class id in the mix; 0 if it has none."""
        if "semseg" not in self.tasks:
            return 0
        ids = [id_ for id_ in self.class_map.values() if id_ != IGNORE_ID]
        return max(ids, default=-1) + 1 if self.class_map else self.source.num_classes

    @cached_property
    def table(self) -> NDArray[np.uint8]:
        """Class id in the mix by that of the member, uint8 [256]."""
        table = np.arange(IGNORE_ID + 1, dtype=np.uint8)
        for id_, mapped in self.class_map.items():
            table[id_] = mapped
        return table


class MixSource:
    """Reads the samples of its members; a split is those of all, member by member.

    A sample has labels of its member's tasks alone; neither loss nor metric counts what it lacks.
    Keys and names of shards begin with the member's ``prefix``.

    Attributes:
        members: As given.
    """

    def __init__(self, members: Sequence[Member], tasks: Sequence[Task]) -> None:
        """Check that the members fit together.

        Args:
            tasks: Tasks that are read.

        Raises:
            ConfigError: If a task is no member's, images differ in size, or classes do not map.
        """
        self.members = tuple(members)
        self._expect_tasks(tasks)
        for member in members:
            _expect_classes(member)
        self._expect_one_set_of_classes()
        self._expect_one_size()
        self._places: dict[str, tuple[Member, SourceShard]] = {}
        self._shards = {split: tuple(self._all_shards(split)) for split in get_args(Split)}

    @property
    def name(self) -> str:
        """Names of the members."""
        return "+".join(member.name for member in self.members)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels, the same of all members."""
        return self.members[0].source.image_size

    @property
    def num_classes(self) -> int:
        """Classes of ``semseg`` of all members together; 0 if there are none."""
        return max(member.num_classes for member in self.members)

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the members."""
        return tuple(f"{each.name}: {note}" for each in self.members for note in each.source.notes)

    def shards(self, split: Split) -> tuple[SourceShard, ...]:
        """The shards of all members, member by member."""
        return self._shards[split]

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples; see :class:`sources.protocol.LabelledSource`."""
        member, own = self._places[shard.name]
        wanted = shard.keys if keys is None else keys
        for found in member.source.read(own, [key.removeprefix(member.prefix) for key in wanted]):
            key = member.prefix + found.key
            if isinstance(found, Sample):
                yield replace(found, key=key, labels=_mapped(found, member))
            else:
                yield replace(found, key=key)

    def tasks_of(self, shard: SourceShard, key: str) -> tuple[Task, ...]:
        """Those of its member."""
        member, own = self._places[shard.name]
        return member.source.tasks_of(own, key.removeprefix(member.prefix))

    def _all_shards(self, split: Split) -> Iterator[SourceShard]:
        for member in self.members:
            for own in member.source.shards(split):
                name = member.prefix + own.name
                self._places[name] = (member, own)
                keys = tuple(member.prefix + key for key in own.keys)
                yield SourceShard(name=name, uri=own.uri, keys=keys)

    def _expect_tasks(self, tasks: Sequence[Task]) -> None:
        labelled = {task for member in self.members for task in member.tasks}
        if nobody := [task for task in tasks if task not in labelled]:
            raise ConfigError(
                f"source.members: nobody labels {', '.join(nobody)} of method.tasks; name "
                f"{'it' if len(nobody) == 1 else 'them'} in the tasks of a member that has such "
                f"labels, or take {', '.join(nobody)} out of method.tasks"
            )

    def _expect_one_size(self) -> None:
        sizes = {member.name: member.source.image_size for member in self.members}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {size[0]} x {size[1]}" for name, size in sizes.items())
            raise ConfigError(
                f"source.members: wanted images of one size, found {found} (height x width); "
                "convert shards again with --size HEIGHTxWIDTH, or set size: of a folder's "
                "description"
            )

    def _expect_one_set_of_classes(self) -> None:
        alike = [each for each in self.members if "semseg" in each.tasks and not each.class_map]
        counts = {member.name: member.num_classes for member in alike}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ConfigError(
                f"source.members: wanted the same classes of semseg, found {found} of them; say "
                "with class_map which id of the mix each id of a member is (255: ignored)"
            )


def _expect_classes(member: Member) -> None:
    """Check that a map of classes names each class of its member, and no other.

    Raises:
        ConfigError: If not.
    """
    if not member.class_map or "semseg" not in member.tasks:
        return
    count = member.source.num_classes
    field = f"source.members: {member.name}: class_map"
    if missing := [id_ for id_ in range(count) if id_ not in member.class_map]:
        raise ConfigError(
            f"{field}: {len(missing)} of {count} classes do not map, such as "
            f"{', '.join(map(str, missing[:_LISTED]))}; say which class of the mix each is, or 255 "
            "to ignore it"
        )
    if unknown := [id_ for id_ in member.class_map if id_ not in {*range(count), IGNORE_ID}]:
        raise ConfigError(
            f"{field}: {unknown[0]} is no class of this member, which has 0 to {count - 1}; take "
            "it out"
        )
    if member.class_map.get(IGNORE_ID, IGNORE_ID) != IGNORE_ID:
        raise ConfigError(
            f"{field}: 255 means ignored and cannot become class {member.class_map[IGNORE_ID]}; "
            "take it out"
        )


def _mapped(sample: Sample, member: Member) -> dict[Task, NDArray[np.generic]]:
    if not member.class_map or "semseg" not in sample.labels:
        return sample.labels
    return {**sample.labels, "semseg": member.table[sample.labels["semseg"]]}
