"""Colour tables of class maps, as people write them in a description."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_HEX = re.compile(r"#?([0-9a-fA-F]{6})")
_NUMBERS = re.compile(r"\(?\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)?")
_WANTED = 'wanted "#rrggbb" in quotes, or [red, green, blue] of 0 to 255'


def parse_colours(table: Any) -> dict[str, int]:
    """Stored id by colour, ``#rrggbb`` in small letters.

    Args:
        table: A list of colours, whose places are the ids; or a mapping of ids to a colour or to
            several, or of colours to ids.

    Raises:
        ValueError: If a colour or an id is none, or a colour comes twice.
    """
    found: dict[str, int] = {}
    for colour, class_id in _pairs(table):
        name = _name(colour)
        if name in found:
            raise ValueError(f"{name} comes twice, as {found[name]} and {class_id}; keep one")
        found[name] = class_id
    return found


def colour_name(packed: int) -> str:
    """``#rrggbb`` of red · 65536 + green · 256 + blue."""
    return f"#{packed:06x}"


def _pairs(table: Any) -> Iterator[tuple[Any, int]]:
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from _entry(key, value)
        return
    if isinstance(table, str) or not isinstance(table, Iterable):
        raise ValueError(f"wanted a list of colours or a mapping ({_WANTED}), found {table!r:.80}")  # noqa: TRY004 - pydantic names the field of a ValueError
    for place, colour in enumerate(table):
        yield colour, place


def _entry(key: Any, value: Any) -> Iterator[tuple[Any, int]]:
    if not _is_int(key):
        if not _is_int(value):
            raise ValueError(f"{key!r:.40}: wanted its id, found {value!r:.40}")
        yield key, value
    elif isinstance(value, list | tuple) and not all(_is_int(one) for one in value):
        for colour in value:
            yield colour, key
    else:
        yield value, key


def _name(colour: Any) -> str:
    if isinstance(colour, str):
        if match := _HEX.fullmatch(colour.strip()):
            return f"#{match.group(1).lower()}"
        match = _NUMBERS.fullmatch(colour.strip())
        parts: list[Any] = [int(part) for part in match.groups()] if match else []
    else:
        parts = list(colour) if isinstance(colour, list | tuple) else []
    if len(parts) != 3 or not all(_is_int(part) and 0 <= part <= 255 for part in parts):
        raise ValueError(f"{colour!r:.40}: {_WANTED}")
    return "#{:02x}{:02x}{:02x}".format(*parts)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
