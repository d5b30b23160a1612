"""Label files of a user's folder, decoded as their description says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from PIL import Image

from schemas.errors import SampleError
from schemas.plain_files import open_plain
from schemas.sample import IGNORE_ID, IGNORE_PROBABILITY, Task
from sources.class_colours import colour_name
from sources.folder_description import ClassFiles, DepthFiles, NormalsFiles, ProbabilityFiles
from sources.readers.files import unit_normals, valid_depth
from sources.readers.numbers import is_numbers, numbers_shape
from sources.readers.stored import Stored, decode_stored, packed_colours, plane_size
from storage.samples.codecs import normals_of_codes
from storage.samples.members import DECODE_ERRORS, PICTURE_FORMATS, read_stored
from storage.samples.metadata import displayed_size

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sources.folder_description import TaskFiles

    Array = NDArray[Any]

# JPEG and its like change the values a little, which turns ids and depths into others.
_EXACT_FORMATS = ("PNG", "TIFF", "BMP")
_NUM_8_BIT_IDS = 256
_NPY_HEAD_BYTES = 1 << 14
_SHOWN_COLOURS = 8
_GREY_MODES = ("L", "I;16", "I;16B", "I", "F")
_INDEX_MODES = ("P", "1", "L", "I;16", "I;16B", "I")


def decode_task_file(data: bytes, files: TaskFiles, task: Task) -> Array:
    """Decode a label file as it is described; its content says of which format it is.

    Args:
        data: A PNG, TIFF or BMP, a NumPy file (``.npy``, ``.npz``) or an OpenEXR.
        files: What the description says of such files.

    Returns:
        The label at its own size, encoded as ``schemas.sample`` says.

    Raises:
        SampleError: If it cannot be decoded; ``label_format`` if it holds another kind of values;
            ``class_id_out_of_range``; ``probability_out_of_range``; ``depth_out_of_range``.
    """
    if isinstance(files, NormalsFiles):
        return _normals(_read(data, task, num_channels=3), task) * np.array(files.signs, np.float32)
    if isinstance(files, DepthFiles):
        return _depth(_read(data, task), files, task)
    if isinstance(files, ClassFiles):
        stored = _ids_of_colours(data, files, task) if files.colors else _stored_ids(data, task)
        return _class_ids(stored, files, task)
    return _probability(_read(data, task), files, task)


def size_from_header(path: Path) -> tuple[int, int] | None:
    """Width and height as displayed; None if the header cannot be read."""
    try:
        with open_plain(path) as file:
            head = file.read(_NPY_HEAD_BYTES)
            if is_numbers(head):
                rest = b"" if path.suffix == ".npy" else file.read()
                height, width = plane_size(numbers_shape(head + rest, what=path.name))
                return width, height
            file.seek(0)
            with Image.open(file, formats=PICTURE_FORMATS) as picture:
                return displayed_size(picture)
    except (*DECODE_ERRORS, SampleError):
        return None


def turned_hint(image: Path, size: tuple[int, int], label_size: tuple[int, int]) -> str:
    """What to think of where a label has the size of its image before EXIF turned it; else ""."""
    if size != label_size[::-1] or size == label_size:
        return ""
    try:
        with open_plain(image) as file, Image.open(file, formats=PICTURE_FORMATS) as picture:
            is_turned = picture.size != displayed_size(picture)
    except DECODE_ERRORS:
        return ""
    if not is_turned:
        return ""
    return (
        "; the image is turned by its EXIF orientation and the label is not: turn the labels too, "
        "or write the images upright without EXIF (mogrify -auto-orient)"
    )


def _read(data: bytes, task: Task, *, num_channels: int = 1) -> Stored:
    return decode_stored(data, what=task, formats=_EXACT_FORMATS, num_channels=num_channels)


def _normals(stored: Stored, task: Task) -> Array:
    values = stored.values
    if stored.mode in ("RGB", "RGBA"):
        normals = normals_of_codes(values[..., :3])
        return normals * (values[..., 3:] > 0) if stored.mode == "RGBA" else normals
    if stored.mode or values.ndim != 3 or values.shape[2] != 3:
        _refuse(task, "a colour picture, or numbers [H, W, 3] in .npy or .exr", stored)
    if values.dtype == np.uint8:
        return normals_of_codes(values)
    if values.dtype.kind != "f":
        _refuse(task, "vectors with components of -1 to 1", stored)
    return unit_normals(values)


def _depth(stored: Stored, files: DepthFiles, task: Task) -> Array:
    values = stored.values
    if files.range:
        depth_m = _in_range(stored, files.range, task)
    elif stored.mode in ("L", "LA", "RGB", "RGBA") and stored.is_grey:
        copied = "" if stored.mode == "L" else f" as {stored.words}"
        raise SampleError(
            "label_format",
            f"{task}: found 8-bit grey{copied}; depth wants 16 bit or .npy: export it again in "
            "millimetres (unit: mm), or, if these 256 steps are all there is, say "
            f"labels.{task}.range: [nearest, farthest] in metres, in place of unit",
        )
    elif not (stored.is_plane and (stored.mode in _GREY_MODES or not stored.mode)):
        _refuse(task, "16-bit grey, .npy or .exr", stored)
    elif values.dtype.kind == "f":
        if "unit" not in files.model_fields_set:
            raise SampleError(
                "label_format",
                f"{task}: found {stored.words}, and labels.{task}.unit is not given; say unit: m "
                "if they are metres",
            )
        depth_m = values.astype(np.float32) * np.float32(files.metres_per_step)
    else:
        depth_m = (values / np.float32(1000)).astype(np.float32)
        depth_m = depth_m * np.float32(files.metres_per_step * 1000)
    limit = np.inf if files.max_m is None else files.max_m
    return valid_depth(np.where(depth_m <= limit, depth_m, np.float32(0)))


def _in_range(stored: Stored, span_m: tuple[float, float], task: Task) -> Array:
    """Metres of a code of 8 or 16 bits, or of numbers of 0 to 1; 0 stays invalid.

    Raises:
        SampleError: ``depth_out_of_range``; ``label_format``.
    """
    values = _grey(stored, task)
    is_fraction = stored.values.dtype.kind in "fb"
    top = 1.0 if is_fraction else float(np.iinfo(stored.values.dtype).max)
    if is_fraction and np.nanmax(values, initial=0.0) > top:
        raise SampleError(
            "depth_out_of_range",
            f"{task}: stored value {np.nanmax(values):g} is above 1, where range means its end; "
            "say unit in place of range",
        )
    near, far = span_m
    return np.where(values > 0, near + values / top * (far - near), 0).astype(np.float32)


def _stored_ids(data: bytes, task: Task) -> Array:
    stored = _read(data, task)
    if stored.mode in ("RGB", "RGBA"):
        raise SampleError(
            "label_format",
            f"{task}: wanted class ids in 8- or 16-bit grey, found {stored.words} with "
            f"{_colours_of(stored.values)}; say which id each colour means in labels.{task}.colors",
        )
    if not stored.is_plane or (stored.mode and stored.mode not in _INDEX_MODES):
        _refuse(task, "class ids in 8- or 16-bit grey, a palette or .npy", stored)
    values = stored.values
    if values.dtype.kind == "f":
        ids = np.where(np.isfinite(values), values, -1).astype(np.int64)
        if (ids != values).any():
            raise SampleError(
                "class_id_out_of_range",
                f"labels.{task}: stored value {values[ids != values][0]:g} is no whole number; "
                "wanted class ids",
            )
        return ids
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _ids_of_colours(data: bytes, files: ClassFiles, task: Task) -> Array:
    rgb, mode = read_stored(data, formats=_EXACT_FORMATS, what=task, convert="RGB")
    if mode.startswith(("I", "F")):
        _refuse(task, "a colour picture, as colors is given", Stored(values=rgb, mode=mode))
    packed, places = np.unique(packed_colours(rgb), return_inverse=True)
    names = [colour_name(int(one)) for one in packed]
    unknown = [place for place, name in enumerate(names) if name not in files.colors]
    if unknown:
        found = places.reshape(rgb.shape[:2]) == unknown[0]
        row, column = np.argwhere(found)[0]
        raise SampleError(
            "class_id_out_of_range",
            f"labels.{task}: colour {names[unknown[0]]} = {rgb[row, column].tolist()} is not in "
            f"colors ({found.sum()} pixels, the first at x {column}, y {row}; {len(unknown)} such "
            "colours in this file); add it, with an id under ignore if it has no class; if it is a "
            "mixture of two colours, export the maps without smoothing",
        )
    ids = np.array([files.colors[name] for name in names])
    return ids[places].reshape(rgb.shape[:2])


def _colours_of(rgb: Array) -> str:
    found = np.unique(packed_colours(rgb))
    shown = ", ".join(colour_name(int(one)) for one in found[:_SHOWN_COLOURS])
    more = ", …" if len(found) > _SHOWN_COLOURS else ""
    return f"{len(found)} colour{'s' if len(found) > 1 else ''} ({shown}{more})"


def _class_ids(stored: Array, files: ClassFiles, task: Task) -> Array:
    if stored.dtype == np.uint8:
        codes, places = np.arange(_NUM_8_BIT_IDS), stored
    else:
        codes, places = np.unique(stored, return_inverse=True)
        places = places.reshape(stored.shape)
    ids = np.array([files.class_of(int(code)) for code in codes])
    is_ignored = np.isin(codes, files.ignore)
    is_outside = ~is_ignored & ((ids < 0) | (ids >= files.num_classes))
    outside = stored[is_outside[places]]
    if outside.size:
        rule = (
            f"is not in id_map = {files.id_map}"
            if files.id_map
            else f"with id_offset = {files.id_offset} is outside 0..{files.num_classes - 1}"
        )
        raise SampleError(
            "class_id_out_of_range",
            f"labels.{task}: stored id {int(outside[0])} {rule}; "
            + (
                "a mask of 0 and 255 wants id_map: {0: 0, 255: 1}"
                if set(np.unique(stored).tolist()) == {0, IGNORE_ID}
                else "correct id_offset, id_map or num_classes, or add it to ignore"
            ),
        )
    table: Array = np.where(is_ignored, IGNORE_ID, ids).astype(np.uint8)
    return table[places]


def _probability(stored: Stored, files: ProbabilityFiles, task: Task) -> Array:
    values = _grey(stored, task)
    one = files.max_value or (255.0 if stored.mode not in ("", "1", "F") else 1.0)
    is_ignored = np.isin(values, files.ignore)
    shares = np.where(is_ignored, 0, values) / one
    outside = ~((shares >= 0) & (shares <= 1))
    if outside.any():
        first = values[outside][0]
        remedy = "correct max_value, or add it to ignore"
        if np.isnan(first):
            remedy = "save a number such as -1 in its place, and say ignore: [-1]"
        raise SampleError(
            "probability_out_of_range",
            f"labels.{task}: stored value {first:g} is outside 0..{one:g}; {remedy}",
        )
    if 0 < shares.max(initial=0.0) * one <= 1 < one:
        raise SampleError(
            "probability_out_of_range",
            f"labels.{task}: no stored value is above 1, where {one:g} means "
            "probability 1; if the files hold 0 and 1, say max_value: 1",
        )
    if files.threshold is not None:
        shares = (shares > files.threshold).astype(np.float64)
    return np.where(is_ignored, IGNORE_PROBABILITY, shares).astype(np.float32)


def _grey(stored: Stored, task: Task) -> Array:
    """Values of one channel; of several if they are equal, and without transparency."""
    if not stored.is_grey:
        wanted = "grey" if stored.mode else "numbers [H, W]"
        _refuse(task, wanted, stored)
    return stored.plane.astype(np.float64)


def _refuse(task: Task, wanted: str, stored: Stored) -> NoReturn:
    shape = f" of shape {stored.values.shape}" if stored.is_numbers else ""
    raise SampleError(
        "label_format",
        f"{task}: wanted {wanted}, found {stored.words}{shape}; export it again, or correct "
        f"labels.{task}",
    )
