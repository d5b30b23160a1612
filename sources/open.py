"""The source that a configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import ConfigError
from sources.folder import FolderSource
from sources.mix import Member, MixSource
from sources.partial_labels import PartialLabels
from sources.pinned import PinnedSource
from sources.prepared import PreparedSource
from sources.rooms import RoomsSource
from storage.files.stores import open_store
from storage.records.splits import read_splits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from schemas.config import RunConfig
    from schemas.config_source import MixSource as MixConfig
    from schemas.config_source import PlainSource, Source
    from schemas.sample import Task
    from sources.protocol import DealtSource, LabelledSource


def _open_plain(
    config: PlainSource, tasks: Sequence[Task], *, field: str = "source.labels"
) -> LabelledSource:
    """Open a source, without the labels that it is to leave out."""
    source = _PLAIN[config.kind](config, tasks)
    labels = config.labels
    if labels.regime == "full" and not labels.drops_unlabelled:
        return source
    return PartialLabels(source, labels, tasks, field=field)


def _open_mix(config: MixConfig, tasks: Sequence[Task]) -> MixSource:
    members = []
    for each in config.members:
        own = tuple(task for task in tasks if task in each.tasks)
        field = f"source.members: {each.name}: source.labels"
        source = _open_plain(each.source, own, field=field)
        members.append(Member(section=each, source=source, tasks=own))
    return MixSource(members, tasks)


_PLAIN: Mapping[str, Callable[..., DealtSource]] = {
    "rooms": RoomsSource,
    "folder": FolderSource,
    "shards": PreparedSource,
}

OPENERS: Mapping[str, Callable[..., LabelledSource]] = {
    **dict.fromkeys(_PLAIN, _open_plain),
    "mix": _open_mix,
}
"""By ``source.kind``: called with that section of the configuration and the tasks."""


def open_source(
    config: Source, tasks: Sequence[Task], *, num_classes: int | None = None
) -> LabelledSource:
    """Open a source; all that can be checked without decoding is checked.

    Args:
        config: Section ``source`` of the configuration.
        tasks: Tasks whose labels are read; the files of others are not opened.
        num_classes: Classes of the predictor; those of the source must not be more if ``semseg``
            is among the tasks.

    Raises:
        SourceError: If the source is missing or malformed.
        ConfigError: If the source has more classes than the predictor, members of a mix do not
            fit together, or its labels cannot be dealt.
    """
    source = OPENERS[config.kind](config, tasks)
    if "semseg" in tasks and num_classes is not None and source.num_classes > num_classes:
        raise ConfigError(
            f"method.num_classes = {num_classes}: source {source.name} has "
            f"{source.num_classes} classes; set method.num_classes={source.num_classes}"
        )
    return source


def open_run_source(config: RunConfig) -> LabelledSource:
    """Open a run's source, with the splits that the run has noted if it has begun.

    Raises:
        SourceError: As :func:`open_source`; or the splits cannot be read.
        ConfigError: As :func:`open_source`.
    """
    method = config.method
    source = open_source(config.source, method.tasks, num_classes=method.num_classes)
    splits = read_splits(open_store(config.run.url))
    return PinnedSource(source, splits) if splits else source
