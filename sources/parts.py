"""The plain sources that a source is made of, for what only these can tell of their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

from sources.mix import MixSource
from sources.partial_labels import PartialLabels
from sources.pinned import PinnedSource
from sources.protocol import Split

if TYPE_CHECKING:
    from sources.protocol import LabelledSource


class Part(NamedTuple):
    """A plain source within another.

    Attributes:
        source: The plain source.
        prefix: What its keys begin with in the other; its own lack it.
    """

    source: LabelledSource
    prefix: str


def parts_of(source: LabelledSource) -> tuple[Part, ...]:
    """Plain sources of which a source is made: itself, if it is one."""
    if isinstance(source, PinnedSource | PartialLabels):
        return parts_of(source.whole)
    if isinstance(source, MixSource):
        return tuple(
            Part(part.source, member.prefix + part.prefix)
            for member in source.members
            for part in parts_of(member.source)
        )
    return (Part(source, ""),)


def partly_labelled(source: LabelledSource) -> set[Split]:
    """Splits whose images lack labels by design, which is no fault."""
    if isinstance(source, PinnedSource):
        return partly_labelled(source.whole)
    if isinstance(source, MixSource):
        return set(get_args(Split))
    return {"train"} if isinstance(source, PartialLabels) else set()
