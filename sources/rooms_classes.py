"""The closed set of classes of the rooms, and the labels that follow from class ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.sample import IGNORE_PROBABILITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


CLASSES = _names(
    "void, wall, floor, ceiling, bed, chair, table, sofa, cabinet, shelf, lamp, window, door, "
    "picture, rug, pillow, plant, tv, box, books, curtain"
)
CLASS_ID: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}
VOID_ID = 0
"""Never scored."""

SALIENT_CLASSES = _names(
    "bed, chair, table, sofa, cabinet, shelf, lamp, pillow, plant, tv, box, books"
)
"""Objects in a room that could be carried out; not its shell, nor what lies flat on the shell."""

_SALIENT_IDS = tuple(CLASS_ID[name] for name in SALIENT_CLASSES)


def saliency_of(ids: Array) -> Array:
    """Furniture and objects, apart from the room that holds them.

    Walls, floor, ceiling, windows, doors, pictures, rugs and curtains are background.

    Args:
        ids: uint8 [H, W], indices into :data:`CLASSES`.

    Returns:
        float32 [H, W]: 1 on :data:`SALIENT_CLASSES`, 0 elsewhere, -1 where void.
    """
    salient = np.isin(ids, _SALIENT_IDS).astype(np.float32)
    return np.where(ids == VOID_ID, np.float32(IGNORE_PROBABILITY), salient)


def boundaries_of(ids: Array) -> Array:
    """Where one class ends and another begins.

    A pixel is a boundary if its class differs from that of its right or its lower neighbour: of
    the two sides of a boundary the left or upper one, so that lines are one pixel wide. Steps of
    depth within a class are none: with them 1.7 per cent more pixels would be, most of them specks.

    Args:
        ids: uint8 [H, W], indices into :data:`CLASSES`.

    Returns:
        float32 [H, W]: 1 on boundaries, 0 elsewhere, -1 where void.
    """
    is_boundary = np.zeros(ids.shape, np.bool_)
    is_boundary[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    is_boundary[:-1] |= ids[:-1] != ids[1:]
    return np.where(ids == VOID_ID, IGNORE_PROBABILITY, is_boundary).astype(np.float32)
