"""What every source of real samples offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from schemas.sample import Sample, SourceShard, Task, UnreadableSample

Split = Literal["train", "validation", "test", "unlabelled"]
"""``unlabelled``: images of the training set whose labels are not used; empty for most sources."""


class LabelledSource(Protocol):
    """A data set of real labelled samples, read shard by shard."""

    @property
    def name(self) -> str:
        """Short name for logs and manifests."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of every image and label that ``read`` gives."""

    @property
    def num_classes(self) -> int:
        """Classes of ``semseg``, ids from 0; 0 if the source has no such labels."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know who uses it, a line each, such as files that are not used."""

    def shards(self, split: Split) -> tuple[SourceShard, ...]:
        """The shards of a split in stable order; empty if the source has no such split."""

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples of a shard in its order, or those of ``keys`` in the order given.

        Raises:
            SourceError: If the shard as a whole is missing or not what it was.
        """

    def tasks_of(self, shard: SourceShard, key: str) -> tuple[Task, ...]:
        """Those of the tasks that are read of which a sample has a label, known unread.

        A label without any valid pixel counts.
        """


class DealtSource(LabelledSource, Protocol):
    """A source whose training labels may be left out."""

    @property
    def whole_train(self) -> Mapping[str, tuple[Task, ...]]:
        """Keys of the train split, also of images that ``num_labelled`` cuts off, to their tasks.

        The tasks are all that an image is known to have labels of, read or not: labels are dealt
        alike whatever a run reads.
        """
