"""What tells cheaply whether the files of a source, or how they are read, are what they were."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sources.folder import FolderSource
from sources.mix import MixSource
from sources.partial_labels import PartialLabels
from sources.parts import parts_of
from sources.pinned import Change, change_between, keys_of
from sources.prepared import PreparedSource
from storage.records.splits import SplitsRecord

if TYPE_CHECKING:
    from sources.protocol import LabelledSource


def record_of(source: LabelledSource) -> SplitsRecord:
    """The splits of a source as they are, and the signs of its files where it has any."""
    splits = keys_of(source)
    signs: dict[str, int] = {}
    for plain, prefix in parts_of(source):
        if isinstance(plain, FolderSource):
            keys = (key for each in splits.values() for keys in each.values() for key in keys)
            own = (key for key in keys if key.startswith(prefix))
            found = {key: plain.files_sign(key.removeprefix(prefix)) for key in own}
            signs |= {key: sign for key, sign in found.items() if sign is not None}
    return SplitsRecord(splits=splits, signs=signs, reading=_reading_of(source))


def _reading_of(source: LabelledSource) -> dict[str, Any]:
    """What decides how files are read and which labels are used, by field."""
    if isinstance(source, FolderSource | PreparedSource):
        return source.reading
    if isinstance(source, PartialLabels):
        return _reading_of(source.whole) | source.reading
    members = source.members if isinstance(source, MixSource) else ()
    return {
        f"{member.name}: {field}": value
        for member in members
        for field, value in _reading_of(member.source).items()
    }


def changes_between(began: SplitsRecord, now: SplitsRecord) -> Change:
    """Compare two states of a source: samples, their files, and how these are read.

    What a record lacks is not compared.
    """
    samples = change_between(began.splits, now.splits)
    both = began.signs.keys() & now.signs.keys()
    differ = {key for key in both if began.signs[key] != now.signs[key]}
    edited: dict[str, list[str]] = {}
    for split, shards in began.splits.items():
        keys = [key for each in shards.values() for key in each if key in differ]
        edited |= {split: keys} if keys else {}
    return replace(samples, edited=edited, fields=_fields(began, now))


def _fields(began: SplitsRecord, now: SplitsRecord) -> tuple[str, ...]:
    if began.reading is None or now.reading is None:
        return ()
    old, new = began.reading, now.reading
    return tuple(
        f"{name}: there {old.get(name, 'absent')}, now {new.get(name, 'absent')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    )
