"""Template captions of what is visible in a view, and their parsing back into slots.

Grammar, words split by single spaces:

    caption := things " , " COLOUR " walls" " , " COLOUR " floor"   (a part not visible is left out)
    things  := "empty room" | thing | thing " and " thing
    thing   := "a " COLOUR " " OBJECT " " ("on the left" | "in the middle" | "on the right")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sources.rooms_classes import CLASS_ID, CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

COLOURS = ("white", "grey", "black", "brown", "red", "yellow", "green", "blue")
FURNITURE = ("bed", "sofa", "table", "chair", "cabinet", "shelf", "lamp", "plant", "tv", "rug")
FALLBACK_OBJECTS = ("curtain", "window", "door")
PLACES = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
EMPTY = "empty room"
MIN_SHARE = 0.025
MAX_THINGS = 2

# Thresholds on rendered sRGB colours, in the gaps between what the paints of `materials` give.
BLACK_HIGH = 97.0
BLACK_SATURATION = 0.38
NEUTRAL_SATURATION = 0.28
WHITE_HIGH = 148.0
BROWN_HUE_DEG = 38.0


@dataclass(frozen=True)
class VisibleObject:
    """One object as seen: its class, its share of the pixels and where its centroid lies."""

    index: int
    class_name: str
    share: float
    centroid_x: float


@dataclass(frozen=True)
class Thing:
    """One object slot of a caption."""

    colour: str
    name: str
    place: str


@dataclass(frozen=True)
class CaptionSlots:
    """What a caption states; `None` where it states nothing."""

    things: tuple[Thing, ...]
    wall: str | None
    floor: str | None


def visible_objects(
    semseg: NDArray[np.uint8], instances: NDArray[np.integer]
) -> list[VisibleObject]:
    """Return the nameable objects of a view that fill at least `MIN_SHARE`, largest first.

    Args:
        semseg: class ids [H, W].
        instances: object index of each pixel [H, W].
    """
    height, width = semseg.shape
    found: list[VisibleObject] = []
    for index in np.unique(instances):
        rows, columns = np.nonzero(instances == index)
        name = CLASSES[int(semseg[rows[0], columns[0]])]
        share = len(columns) / (height * width)
        if share >= MIN_SHARE and name in FURNITURE + FALLBACK_OBJECTS:
            centroid = (float(columns.mean()) + 0.5) / width
            found.append(VisibleObject(int(index), name, share, centroid))
    return sorted(found, key=lambda seen: (seen.class_name in FALLBACK_OBJECTS, -seen.share))


def caption_from_view(
    rgb: NDArray[np.uint8], semseg: NDArray[np.uint8], instances: NDArray[np.integer]
) -> str:
    """Describe a view: its two largest objects from left to right, its walls and its floor.

    Furniture goes before curtains, windows and doors. Colours name the mean rendered colour of
    the visible pixels.

    Args:
        rgb: rendered image [H, W, 3].
        semseg: class ids [H, W].
        instances: object index of each pixel [H, W].
    """
    chosen = visible_objects(semseg, instances)[:MAX_THINGS]
    chosen.sort(key=lambda seen: seen.centroid_x)
    things = tuple(
        Thing(_mean_colour(rgb, instances == seen.index), seen.class_name, _place(seen.centroid_x))
        for seen in chosen
    )
    wall, floor = semseg == CLASS_ID["wall"], semseg == CLASS_ID["floor"]
    slots = CaptionSlots(
        things,
        _mean_colour(rgb, wall) if wall.mean() >= MIN_SHARE else None,
        _mean_colour(rgb, floor) if floor.mean() >= MIN_SHARE else None,
    )
    return format_caption(slots)


def format_caption(slots: CaptionSlots) -> str:
    """Write slots as a caption."""
    phrases = [f"a {thing.colour} {thing.name} {PLACES[thing.place]}" for thing in slots.things]
    parts = [" and ".join(phrases) or EMPTY]
    if slots.wall:
        parts.append(f"{slots.wall} walls")
    if slots.floor:
        parts.append(f"{slots.floor} floor")
    return " , ".join(parts)


def parse_caption(caption: str) -> CaptionSlots:
    """Read the slots of a caption; parts that do not follow the grammar are left out."""
    things: list[Thing] = []
    wall = floor = None
    for part in caption.split(" , "):
        words = part.split()
        if len(words) == 2 and words[0] in COLOURS and words[1] == "walls":
            wall = words[0]
        elif len(words) == 2 and words[0] in COLOURS and words[1] == "floor":
            floor = words[0]
        else:
            things += _parse_things(part.split(" and "))
    return CaptionSlots(tuple(things), wall, floor)


def vocabulary() -> tuple[str, ...]:
    """Return every word a caption can contain, sorted."""
    words: set[str] = {"a", "and", ",", "walls", "floor", *EMPTY.split()}
    words.update(COLOURS, FURNITURE, FALLBACK_OBJECTS)
    for phrase in PLACES.values():
        words.update(phrase.split())
    return tuple(sorted(words))


def colour_name(red: float, green: float, blue: float) -> str:
    """Name an sRGB colour with channels in 0..255.

    Dull and dark is black, other dull colours are white or grey by lightness; the rest goes by
    hue, where the paints' brown is the darker neighbour of yellow.
    """
    high, low = max(red, green, blue), min(red, green, blue)
    saturation = (high - low) / max(high, 1.0)
    if high < BLACK_HIGH and saturation < BLACK_SATURATION:
        return "black"
    if saturation < NEUTRAL_SATURATION:
        return "white" if high > WHITE_HIGH else "grey"
    hue = _hue_deg(red, green, blue)
    if hue < 13 or hue >= 300:
        return "red"
    if hue < 75:
        return "brown" if hue < BROWN_HUE_DEG else "yellow"
    return "green" if hue < 170 else "blue"


def _hue_deg(red: float, green: float, blue: float) -> float:
    high, chroma = max(red, green, blue), max(red, green, blue) - min(red, green, blue)
    if high == red:
        return 60.0 * (((green - blue) / chroma) % 6)
    if high == green:
        return 60.0 * ((blue - red) / chroma + 2)
    return 60.0 * ((red - green) / chroma + 4)


def _mean_colour(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> str:
    red, green, blue = rgb[mask].astype(np.float64).mean(axis=0)
    return colour_name(float(red), float(green), float(blue))


def _place(centroid_x: float) -> str:
    return list(PLACES)[min(int(centroid_x * 3), 2)]


def _parse_things(phrases: Iterable[str]) -> list[Thing]:
    things: list[Thing] = []
    for phrase in phrases:
        words = phrase.split()
        fits = len(words) == 6 and words[0] == "a" and words[1] in COLOURS
        place = next((key for key, text in PLACES.items() if text.split() == words[3:]), None)
        if fits and place and words[2] in FURNITURE + FALLBACK_OBJECTS:
            things.append(Thing(words[1], words[2], place))
    return things
