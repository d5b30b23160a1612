"""The closed set of semantic classes of the rooms."""

from __future__ import annotations

CLASSES: tuple[str, ...] = (
    "void",
    "wall",
    "floor",
    "ceiling",
    "bed",
    "chair",
    "table",
    "sofa",
    "cabinet",
    "shelf",
    "lamp",
    "window",
    "door",
    "picture",
    "rug",
    "pillow",
    "plant",
    "tv",
    "box",
    "books",
    "curtain",
)
CLASS_ID: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}
VOID_ID = 0
