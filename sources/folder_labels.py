"""Label files of a user's folder, decoded as their description says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from schemas.errors import SampleError
from schemas.sample import IGNORE_ID, IGNORE_PROBABILITY, Task
from sources.folder_description import ClassFiles, DepthFiles, NormalsFiles, ProbabilityFiles
from storage.samples.codecs import decode_class_ids, decode_depth, decode_normals
from storage.samples.members import DECODE_ERRORS, MAX_PIXELS, decode_npy, npy_shape, read_label_png

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sources.folder_description import TaskFiles

    Array = NDArray[Any]

_EXIF_ORIENTATION = 0x0112
_FIRST_TURNED_ORIENTATION = 5
_NUM_STORED_IDS = 256
_MAX_NPY_BYTES = 8 * MAX_PIXELS + 4096
_NPY_HEAD_BYTES = 1 << 14
_GREY_MODES = ("L", "1", "P", "I;16", "I;16B", "I")


def decode_task_file(data: bytes, files: TaskFiles, task: Task) -> Array:
    """Decode a label file as it is described.

    Args:
        data: A PNG file, or a NumPy file where the pattern says so.
        files: What the description says of such files.

    Returns:
        The label at its own size, encoded as ``schemas.sample`` says.

    Raises:
        SampleError: If it cannot be decoded; ``class_id_out_of_range``;
            ``probability_out_of_range``.
    """
    if isinstance(files, NormalsFiles):
        return decode_normals(data, what=task) * np.array(files.signs, np.float32)
    if isinstance(files, DepthFiles):
        depth_m = decode_depth(data, what=task) * np.float32(files.metres_per_step * 1000)
        limit = np.inf if files.max_m is None else files.max_m
        return np.where(depth_m <= limit, depth_m, np.float32(0))
    if isinstance(files, ClassFiles):
        return _class_ids(decode_class_ids(data, what=task), files, task)
    stored = _read_npy(data, task) if files.is_numpy else _read_grey(data, task)
    return _probability(stored, files, task)


def size_from_header(path: Path) -> tuple[int, int] | None:
    """Width and height as displayed; None if the header cannot be read."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                height, width, *_ = npy_shape(file.read(_NPY_HEAD_BYTES), what=path.name)
            return width, height
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_EXIF_ORIENTATION, 1) >= _FIRST_TURNED_ORIENTATION
    except (*DECODE_ERRORS, SampleError):
        return None
    return (height, width) if turned else (width, height)


def _class_ids(stored: Array, files: ClassFiles, task: Task) -> Array:
    codes = np.arange(_NUM_STORED_IDS)
    if files.id_map:
        ids = np.array([files.id_map.get(int(code), -1) for code in codes])
        rule = f"is not in id_map = {files.id_map}"
    else:
        ids = codes + files.id_offset
        rule = f"with id_offset = {files.id_offset} is outside 0..{files.num_classes - 1}"
    is_ignored = np.isin(codes, files.ignore)
    is_outside = ~is_ignored & ((ids < 0) | (ids >= files.num_classes))
    outside = stored[is_outside[stored]]
    if outside.size:
        raise SampleError(
            "class_id_out_of_range",
            f"labels.{task}: stored id {int(outside[0])} {rule}; correct id_offset, id_map or "
            "num_classes, or add it to ignore",
        )
    table: Array = np.where(is_ignored, IGNORE_ID, ids).astype(np.uint8)
    return table[stored]


def _probability(stored: Array, files: ProbabilityFiles, task: Task) -> Array:
    is_ignored = np.isin(stored, files.ignore)
    values = np.where(is_ignored, 0, stored) / files.value_of_one
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        raise SampleError(
            "probability_out_of_range",
            f"labels.{task}: stored value {stored[outside][0]:g} is outside "
            f"0..{files.value_of_one:g}; correct max_value, or add it to ignore",
        )
    if 0 < values.max(initial=0.0) * files.value_of_one <= 1 < files.value_of_one:
        raise SampleError(
            "probability_out_of_range",
            f"labels.{task}: no stored value is above 1, where {files.value_of_one:g} means "
            "probability 1; if the files hold 0 and 1, say max_value: 1",
        )
    if files.threshold is not None:
        values = (values > files.threshold).astype(np.float64)
    return np.where(is_ignored, IGNORE_PROBABILITY, values).astype(np.float32)


def _read_grey(data: bytes, task: Task) -> Array:
    return read_label_png(data, modes=_GREY_MODES, what=task).astype(np.float64)


def _read_npy(data: bytes, task: Task) -> Array:
    if len(data) > _MAX_NPY_BYTES:
        raise SampleError("too_large", f"{task}: {len(data)} bytes; wanted one image's map")
    array = decode_npy(data, what=task)
    is_map = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not is_map or array.dtype.kind not in "fiub":
        found = f"{array.dtype} {array.shape}"
        raise SampleError("label_format", f"{task}: wanted numbers [H, W], found {found}")
    plane: Array = array.reshape(array.shape[:2]).astype(np.float64)
    return plane
