"""Parts of persons from the annotations of PASCAL-Part: a nested MATLAB struct an image.

``anno`` is a struct with ``objects``, an array of structs ``class_ind``, ``mask`` and ``parts``;
``parts`` is an array of structs ``part_name`` and ``mask``, or empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

PERSON = 15
"""``class_ind`` of a person."""

HEAD, TORSO, UPPER_ARMS, LOWER_ARMS, UPPER_LEGS, LOWER_LEGS = range(1, 7)
_HEAD_PARTS = "head hair lear rear lebrow rebrow leye reye mouth nose"
PART_IDS: dict[str, int] = {
    **dict.fromkeys(_HEAD_PARTS.split(), HEAD),
    **dict.fromkeys(("torso", "neck"), TORSO),
    **dict.fromkeys(("luarm", "ruarm"), UPPER_ARMS),
    **dict.fromkeys(("llarm", "rlarm", "lhand", "rhand"), LOWER_ARMS),
    **dict.fromkeys(("luleg", "ruleg"), UPPER_LEGS),
    **dict.fromkeys(("llleg", "rlleg", "lfoot", "rfoot"), LOWER_LEGS),
}
"""Class of each of the 24 part names; l and r are left and right."""


def paint_parts(anno: Any, path: Path) -> NDArray[Any] | None:
    """Paint the parts of all persons, later ones over earlier ones.

    Args:
        anno: The variable as ``scipy.io.loadmat`` gives it, squeezed or not.

    Returns:
        uint8 [H, W], 0 where no part is; None if no pixel is part of a person.

    Raises:
        SampleError: ``annotation_invalid`` if it is no such struct, has a part of another name, or
            masks of several sizes.
    """
    ids: NDArray[Any] | None = None
    for name, mask in _person_parts(anno, path):
        if name not in PART_IDS:
            raise SampleError(
                "annotation_invalid",
                f"{path}: wanted a part of a person, such as head or luarm; found {name!r}",
            )
        if ids is None:
            ids = np.zeros(mask.shape, dtype=np.uint8)
        if mask.shape != ids.shape:
            raise SampleError(
                "annotation_invalid",
                f"{path}: wanted masks of one size, found {ids.shape} and {mask.shape}",
            )
        ids[mask] = PART_IDS[name]
    return ids if ids is not None and ids.any() else None


def _person_parts(anno: Any, path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    for image in _structs(anno):
        for each in _structs(_field(image, "objects", path)):
            if _number(_field(each, "class_ind", path), path) != PERSON:
                continue
            for part in _structs(_field(each, "parts", path)):
                yield _text(_field(part, "part_name", path)), _mask(part, path)


def _structs(value: Any) -> list[Any]:
    """Elements of an array of structs, however deep it lies in cells; empty if there are none."""
    if isinstance(value, np.void):
        return [value]
    if not isinstance(value, np.ndarray):
        return []
    if value.dtype.names:
        return list(value.ravel())
    if value.dtype != object:
        return []
    return [struct for cell in value.ravel() for struct in _structs(cell)]


def _field(struct: Any, name: str, path: Path) -> Any:
    """A field, out of the cells of one element it may lie in.

    Raises:
        SampleError: ``annotation_invalid`` if there is no such field.
    """
    if name not in struct.dtype.names:
        raise SampleError(
            "annotation_invalid",
            f"{path}: wanted a struct with {name}, found one with {', '.join(struct.dtype.names)}",
        )
    value = struct[name]
    while isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.item()
    return value


def _number(value: Any, path: Path) -> int:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "buif":
        raise SampleError("annotation_invalid", f"{path}: wanted one class_ind, found {value!r}")
    return int(array.item())


def _text(value: Any) -> str:
    array = np.asarray(value)
    return str(array.item()) if array.size == 1 else str(value)


def _mask(part: Any, path: Path) -> NDArray[Any]:
    mask = np.asarray(_field(part, "mask", path))
    if mask.ndim != 2 or mask.dtype.kind not in "buif":
        raise SampleError(
            "annotation_invalid",
            f"{path}: wanted a mask of numbers [H, W], found {mask.dtype} {mask.shape}",
        )
    return mask.astype(bool)
