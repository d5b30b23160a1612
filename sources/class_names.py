"""Names of class ids, for people to read: by the configuration, else as the source calls them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from schemas.errors import UserError
from schemas.paths import resolve_path
from schemas.sample import Task
from sources.prepared import read_facts
from sources.rooms_classes import CLASSES
from storage.files.stores import open_store

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from schemas.config_source import PlainSource

ClassNames = dict[Task, tuple[str, ...]]
"""Task to the names of its ids from 0; a task whose names are not known is not there."""

_HUMAN_PARTS = (
    *("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs"),
)


def class_names_of(config: RunConfig) -> ClassNames:
    """Names of the classes of a run's tasks; a source that is not here just has none."""
    names: ClassNames = {}
    if "human_parts" in config.method.tasks:
        names["human_parts"] = _HUMAN_PARTS
    if "semseg" in config.method.tasks and (semseg := _semseg(config)):
        names["semseg"] = semseg
    return names


def name_of_class(class_id: int, names: tuple[str, ...]) -> str:
    """An id with its name, if it has one."""
    return f"{class_id} {names[class_id]}" if class_id < len(names) else str(class_id)


def _semseg(config: RunConfig) -> tuple[str, ...]:
    if config.method.class_names:
        return config.method.class_names
    if config.source.kind != "mix":
        return _of_source(config.source)
    members = [each for each in config.source.members if "semseg" in each.tasks]
    names = (_of_source(each.source) for each in members if not each.class_map)
    return next(filter(None, names), ())


def _of_source(source: PlainSource) -> tuple[str, ...]:
    if source.kind == "rooms":
        return CLASSES
    if source.kind == "shards":
        with suppress(UserError, OSError):
            facts = read_facts(open_store(resolve_path(source.root)))
            return facts.class_names if facts else ()
    return ()
