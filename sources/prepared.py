"""Shards that jobs/prepare.py made, or any WebDataset with such a manifest."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import ConfigError, SourceError
from schemas.paths import resolve_path
from schemas.problems import describe_problems
from schemas.sample import TASKS, Task
from sources.shard_folder import Row, ShardFolder, shard_name
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.config_source import ShardsSource as ShardsConfig
    from schemas.sample import Sample, SourceShard, UnreadableSample
    from sources.protocol import Split
    from storage.files.stores import RunStore

PREPARED_FILE = "prepared.json"
REMEDY = "convert the data set with jobs/prepare.py (docs/datasets.md), or fetch the shards again"


class PreparedFacts(BaseModel):
    """Fields of ``prepared.json`` that a reader needs; it may hold others."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    layout: str
    tasks: tuple[Task, ...]
    num_classes: int = Field(ge=0, le=254)
    class_names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None


def read_facts(store: RunStore) -> PreparedFacts | None:
    """The facts of a folder; None if it has none, such as shards made elsewhere.

    Raises:
        SourceError: If the file is malformed.
    """
    if not store.exists(PREPARED_FILE):
        return None
    try:
        return PreparedFacts.model_validate_json(store.read_bytes(PREPARED_FILE))
    except ValidationError as error:
        origin, page = store.uri(PREPARED_FILE), "docs/datasets.md"
        text = describe_problems(origin, error, PreparedFacts, page=page)
        raise SourceError(f"{text}\nrun jobs/prepare.py on the folder again") from error


class PreparedSource:
    """Prepared shards.

    If they have no validation split, ``validation_fraction`` of the train split becomes it: the
    groups (scenes, where the data set names them, else single samples) whose hash is lowest. Of a
    split with a limit, evenly spaced samples are used: neighbours are often of one scene. What
    ``train`` leaves over is ``unlabelled``.
    """

    def __init__(self, config: ShardsConfig, tasks: Sequence[Task]) -> None:
        """Read manifest and facts.

        Args:
            config: Section ``source`` of a run.

        Attributes:
            whole_train: See :class:`sources.protocol.DealtSource`.

        Raises:
            SourceError: If the folder or its manifest is missing or malformed, has too few images,
                or images of several sizes.
            ConfigError: If a task is asked for that the shards have no labels of.
        """
        root = resolve_path(config.root)
        self._config = config
        self._folder = ShardFolder(root, remedy=REMEDY)
        self._facts = read_facts(open_store(root))
        self._tasks = tuple(tasks)
        self._expect_tasks()
        self._num_classes = self._find_num_classes()
        chosen = self._choose()
        self._shards = {split: self._folder.group(rows) for split, rows in chosen.items()}
        self._labelled = {
            (shard_name(row), row["key"]): self._tasks_of(row) for row in self._folder.rows
        }
        self._image_size = self._find_size([row for rows in chosen.values() for row in rows])

    @property
    def name(self) -> str:
        """Name of the layout that was converted, or ``shards``."""
        return self._facts.layout if self._facts else "shards"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._image_size

    @property
    def num_classes(self) -> int:
        """Classes of ``semseg``; 0 if there are none."""
        return self._num_classes

    @property
    def reading(self) -> dict[str, Any]:
        """Facts that decide what labels mean; empty if the shards have none."""
        return self._facts.model_dump(mode="json", exclude={"tasks"}) if self._facts else {}

    @property
    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def shards(self, split: Split) -> tuple[SourceShard, ...]:
        """The shards of a split, each with the keys that are used."""
        return self._shards.get(split, ())

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples; see :class:`sources.protocol.LabelledSource`."""
        yield from self._folder.read(shard, keys, finish=self._with_tasks)

    def tasks_of(self, shard: SourceShard, key: str) -> tuple[Task, ...]:
        """As the manifest says."""
        found = self._labelled.get((shard.name, key), ())
        return tuple(task for task in self._tasks if task in found)

    def _tasks_of(self, row: Row) -> tuple[Task, ...]:
        """Tasks that a row says, else those of all; of shards that say nothing, what is asked."""
        if isinstance(told := row.get("tasks"), list):
            return tuple(task for task in TASKS if task in told)
        if self._facts:
            return self._facts.tasks
        return tuple(dict.fromkeys((*self._tasks, *self._config.labels.tasks)))

    def _with_tasks(self, sample: Sample) -> Sample:
        kept = {task: label for task, label in sample.labels.items() if task in self._tasks}
        return replace(sample, labels=kept)

    def _expect_tasks(self) -> None:
        if self._facts is None:
            return
        missing = [task for task in self._tasks if task not in self._facts.tasks]
        if missing:
            raise ConfigError(
                f"method.tasks: {self._config.root} has no labels of {', '.join(missing)}, only of "
                f"{', '.join(self._facts.tasks)}; take them out of method.tasks"
            )

    def _find_num_classes(self) -> int:
        if "semseg" not in self._tasks:
            return 0
        found = self._facts.num_classes if self._facts else self._config.num_classes
        if found is None:
            raise SourceError(
                f"source.num_classes: {self._config.root} has no {PREPARED_FILE} with the "
                "number of classes; set source.num_classes"
            )
        return found

    def _choose(self) -> dict[Split, list[Row]]:
        rows: dict[Split, list[Row]] = {
            "train": self._folder.of_split("train"),
            "validation": self._folder.of_split("validation"),
            "test": self._folder.of_split("test"),
        }
        if not rows["validation"]:
            fraction = self._config.validation_fraction
            held_out = [row for row in rows["train"] if _position(row) < fraction]
            rows["validation"] = held_out
            rows["train"] = [row for row in rows["train"] if _position(row) >= fraction]
        self.whole_train = {str(row["key"]): self._tasks_of(row) for row in rows["train"]}
        limits: dict[Split, int | None] = {
            "train": self._config.num_labelled,
            "validation": self._config.num_validation,
            "test": self._config.num_test,
        }
        chosen = {split: self._take(rows[split], split, limits[split]) for split in rows}
        used = {(row["shard"], row["key"]) for row in chosen["train"]}
        left_over = [row for row in rows["train"] if (row["shard"], row["key"]) not in used]
        chosen["unlabelled"] = [*left_over, *self._folder.of_split("unlabelled")]
        return chosen

    def _take(self, rows: list[Row], split: Split, limit: int | None) -> list[Row]:
        if split == "train" and not rows:
            raise SourceError(
                f"source.root = {self._config.root}: no images of train; convert more of the data "
                "set, or lower source.validation_fraction, which takes its share from them"
            )
        if len(rows) < (limit or 0):
            field = "num_labelled" if split == "train" else f"num_{split}"
            raise SourceError(
                f"source.{field} = {limit}: {self._config.root} has {len(rows)} images of {split}; "
                f"set source.{field} to at most {len(rows)}, or convert more of the data set"
            )
        if limit is None:
            return rows
        return [rows[number * len(rows) // limit] for number in range(limit)]

    def _find_size(self, rows: list[Row]) -> tuple[int, int]:
        sizes = {(row.get("height"), row.get("width")) for row in rows}
        if len(sizes) > 1:
            raise SourceError(
                f"source.root = {self._config.root}: images of {len(sizes)} sizes, such as "
                f"{sorted(map(str, sizes))[:2]}; convert again with --size HEIGHTxWIDTH"
            )
        (size,) = sizes
        if size[0] is not None and size[1] is not None:
            return int(size[0]), int(size[1])
        return self._folder.size_of_first(self._shards["train"][0])


def _position(row: Row) -> float:
    """Where a sample's group lies between 0 and 1: the same on every machine, in every order."""
    name: Any = row.get("group") or row["key"]
    digest = hashlib.blake2b(str(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
