"""What every source of real samples offers, and the way to open one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.config import Source
    from schemas.sample import Sample, SourceShard, Task, UnreadableSample

Split = Literal["train", "validation", "test", "unlabelled"]
"""``unlabelled``: images of the training set whose labels are not used; empty for most sources."""


def open_source(
    config: Source, tasks: Sequence[Task], *, num_classes: int | None = None
) -> LabelledSource:
    """Open the source that a run's configuration names.

    Args:
        config: Section ``source`` of the configuration.
        tasks: Tasks whose labels are read; the others' files are left alone.
        num_classes: Classes the predictor has; checked against the source's if ``semseg`` is
            among the tasks.

    Returns:
        The opened source; everything that can be checked without decoding was checked.

    Raises:
        SourceError: If the source is missing or malformed.
        ConfigError: If the source has more classes than the predictor.
    """
    source: LabelledSource
    if config.kind == "rooms":
        from sources.rooms import RoomsSource

        source = RoomsSource(config, tasks)
    elif config.kind == "shards":
        from sources.prepared import PreparedSource

        source = PreparedSource(config, tasks)
    else:
        from sources.folder import FolderSource

        source = FolderSource(config, tasks)
    if "semseg" in tasks and num_classes is not None and source.num_classes > num_classes:
        raise ConfigError(
            f"method.num_classes = {num_classes}: source {source.name} has "
            f"{source.num_classes} classes; set method.num_classes={source.num_classes}"
        )
    return source


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

    def shards(self, split: Split) -> tuple[SourceShard, ...]:
        """The shards of a split in stable order; empty if the source has no such split."""

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples of a shard in its order, or those of ``keys`` in the order given."""
