"""Names of the classes that NYUv2 is labelled with."""

from __future__ import annotations


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


NYU_40 = _names(
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, "
    "blinds, desk, shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, "
    "refrigerator, television, paper, towel, shower curtain, box, whiteboard, person, night stand, "
    "toilet, sink, lamp, bathtub, bag, other structure, other furniture, other prop"
)

NYU_13 = _names(
    "bed, books, ceiling, chair, floor, furniture, objects, picture, sofa, table, television, "
    "wall, window"
)
