"""A table from stored class ids to the classes that are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError, SourceError
from schemas.sample import IGNORE_ID
from sources.layouts.nyu_classes import NYU_13, NYU_40
from sources.readers.matlab import read_variables

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAT_NAME = "classMapping40.mat"
MAT_VARIABLE = "mapClass"
REMEDY = (
    "wanted a .mat with mapClass, or a text of one number a line: the class (from 1) of stored id "
    "1, 2, …, and 0 where it is not scored"
)
_KNOWN_NAMES = {len(names): names for names in (NYU_13, NYU_40)}


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Stored ids to classes.

    Attributes:
        table: uint8 class of each stored id from 0; id 0 and others that are not scored are 255.
        num_classes: Classes, from 0.
    """

    table: NDArray[Any]
    num_classes: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, for NYUv2's 13 and 40; else empty."""
        return _KNOWN_NAMES.get(self.num_classes, ())

    def apply(self, stored: NDArray[Any], *, where: str) -> NDArray[Any]:
        """Map stored ids [H, W] to uint8 classes, 255 = ignore.

        Raises:
            SampleError: ``class_id_out_of_range`` if an id is beyond the table.
        """
        if stored.max(initial=0) >= len(self.table):
            raise SampleError(
                "class_id_out_of_range",
                f"{where}: stored id {int(stored.max())} is beyond the {len(self.table) - 1} ids "
                "of the class map; give the map that was made for this file",
            )
        return np.asarray(self.table[stored], dtype=np.uint8)


def find_class_map(root: Path, given: Path | None) -> ClassMap | None:
    """The class map that was given, or ``classMapping40.mat`` if it lies in the folder.

    Raises:
        SourceError: If the file is missing or malformed.
    """
    beside = root / MAT_NAME
    if given is None and not beside.is_file():
        return None
    path = beside if given is None else given
    if path.suffix == ".mat":
        raw = np.ravel(read_variables(path, (MAT_VARIABLE,), remedy=REMEDY)[MAT_VARIABLE])
    else:
        raw = _read_text(path)
    return _make_map(raw, path)


def _read_text(path: Path) -> NDArray[Any]:
    try:
        return np.array([int(line) for line in path.read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: {error}; {REMEDY}") from error


def _make_map(raw: NDArray[Any], path: Path) -> ClassMap:
    if raw.size == 0 or raw.dtype.kind not in "uif" or raw.min() < 0 or raw.max() > IGNORE_ID - 1:
        raise SourceError(f"{path}: found {raw.dtype} {raw[:5]}; {REMEDY}")
    classes = raw.astype(np.int64)
    table = np.where(classes == 0, IGNORE_ID, classes - 1)
    return ClassMap(np.concatenate([[IGNORE_ID], table]).astype(np.uint8), int(classes.max()))
