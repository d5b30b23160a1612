"""The rooms shipped with the project: WebDataset tars with exact labels and a Parquet manifest."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import ConfigError, SourceError
from schemas.paths import resolve_path
from schemas.sample import IGNORE_ID, Sample, SourceShard, Task, UnreadableSample
from sources.rooms_classes import CLASSES, VOID_ID, boundaries_of, saliency_of
from sources.shard_folder import Row, ShardFolder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from schemas.config_source import RoomsSource as RoomsConfig
    from sources.protocol import Split

ROOM_TASKS: tuple[Task, ...] = ("normals", "depth", "semseg", "saliency", "boundaries")
"""What rooms have labels of; saliency and boundaries follow from the other three."""

REMEDY = (
    "point source.root at the folder of the shipped rooms (data/rooms), fetch them again, or "
    "render them with jobs/render_rooms.py"
)


class RoomsSource:
    """Rendered rooms with exact normals, depth and class ids.

    ``train`` is cut to the first ``num_labelled`` keys in the manifest's order, ``validation``
    and ``test`` likewise; ``unlabelled`` is the rest of ``train``. Void pixels of ``semseg`` come
    as ``IGNORE_ID``.
    """

    def __init__(self, config: RoomsConfig, tasks: Sequence[Task]) -> None:
        """Read the manifest.

        Args:
            config: Section ``source`` of a run.

        Attributes:
            whole_train: See :class:`sources.protocol.DealtSource`.

        Raises:
            ConfigError: If a task is asked for that rooms have no labels of.
            SourceError: If the folder or its manifest is missing or malformed.
        """
        if without := [task for task in tasks if task not in ROOM_TASKS]:
            raise ConfigError(
                f"method.tasks: rooms have no labels of {', '.join(without)}; they have "
                f"{', '.join(ROOM_TASKS)}: take the others out, or choose another source"
            )
        self._folder = ShardFolder(resolve_path(config.root), remedy=REMEDY)
        self._tasks = tuple(tasks)
        limits: dict[Split, int] = {
            "train": config.num_labelled,
            "validation": config.num_validation,
            "test": config.num_test,
        }
        self._shards = {
            split: self._folder.group(_take(self._rows(split, config), split, limit, config))
            for split, limit in limits.items()
        }
        train = self._rows("train", config)
        self._shards["unlabelled"] = self._folder.group(train[config.num_labelled :])
        self.whole_train = {str(row["key"]): ROOM_TASKS for row in train}

    @property
    def name(self) -> str:
        """``rooms``."""
        return "rooms"

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels, those of the first training image."""
        return self._folder.size_of_first(self._shards["train"][0])

    @property
    def num_classes(self) -> int:
        """Twenty-one, void among them."""
        return len(CLASSES)

    @property
    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def shards(self, split: Split) -> tuple[SourceShard, ...]:
        """The shards of a split, each with the keys that are used."""
        return self._shards[split]

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples; see :class:`sources.protocol.LabelledSource`."""
        yield from self._folder.read(shard, keys, finish=self._with_tasks)

    def tasks_of(self, shard: SourceShard, key: str) -> tuple[Task, ...]:  # noqa: ARG002
        """All: rooms are labelled completely."""
        return self._tasks

    def _rows(self, split: Split, config: RoomsConfig) -> list[Row]:
        """Rows of a split in the manifest's order whose captions match."""
        pattern = re.compile(config.train_captions if split == "train" else config.test_captions)
        return [
            row
            for row in self._folder.of_split(split)
            if pattern.search(str(row.get("caption") or ""))
        ]

    def _with_tasks(self, sample: Sample) -> Sample:
        wanted = [task for task in self._tasks if _shipped(task) in sample.labels]
        return replace(sample, labels={task: _label(sample, task) for task in wanted})


def _shipped(task: Task) -> Task:
    """The label in the tar that a task's label comes from."""
    return task if task in ("normals", "depth") else "semseg"


def _label(sample: Sample, task: Task) -> NDArray[Any]:
    label = sample.labels[_shipped(task)]
    if task == "saliency":
        return saliency_of(label)
    if task == "boundaries":
        return boundaries_of(label)
    return np.where(label == VOID_ID, np.uint8(IGNORE_ID), label) if task == "semseg" else label


def _take(part: list[Row], split: Split, limit: int, config: RoomsConfig) -> list[Row]:
    if len(part) < limit:
        field = {"train": "num_labelled"}.get(split, f"num_{split}")
        pattern = config.train_captions if split == "train" else config.test_captions
        matching = f" whose caption matches {pattern!r}" if pattern else ""
        raise SourceError(
            f"source.{field} = {limit}: {config.root} has {len(part)} images of {split}"
            f"{matching}; set source.{field} to at most {len(part)}"
        )
    return part[:limit]
