"""Names of the classes of NYUv2, Cityscapes and PASCAL VOC, in order of their ids from 0."""

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

CITYSCAPES_19 = _names(
    "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, "
    "terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle"
)
"""In the order of the official train ids."""

CITYSCAPES_7 = _names("flat, construction, object, nature, sky, human, vehicle")
"""The official categories without void, in their order."""

VOC_21 = _names(
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, "
    "dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
