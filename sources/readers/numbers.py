"""Numbers from files: NumPy (``.npy``, ``.npz``) and OpenEXR, bounded and never unpickled."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError
from storage.samples.members import MAX_PIXELS, decode_npy, npy_layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

MAX_NUMBER_BYTES = 8 * MAX_PIXELS
"""Greatest size of one file's numbers in memory."""

NUMBER_FORMATS = (".npy", ".npz", "OpenEXR")
"""What people call the formats that are read."""

NPY_START = b"\x93NUMPY"
NPZ_START = b"PK\x03\x04"
EXR_START = b"\x76\x2f\x31\x01"

_HEAD_BYTES = 1 << 14
_EXR_REMEDY = "to read OpenEXR, pip install '.[exr]', or save it as .npy"
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    # Passwords, and ways of packing that this Python lacks.
    RuntimeError,
    NotImplementedError,
)
_EXR_ERRORS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, OSError)
# By the last part of a channel's name, as in ViewLayer.Depth.Z.
_PLANE_CHANNELS = ("z", "depth", "y", "v")
_VECTOR_CHANNELS = (("r", "g", "b"), ("x", "y", "z"))


def is_numbers(data: bytes) -> bool:
    """Whether the content is one of these formats."""
    return data.startswith((NPY_START, NPZ_START, EXR_START))


def read_numbers(data: bytes, *, what: str, num_channels: int = 1) -> Array:
    """The array of a file.

    Args:
        data: The whole file.
        what: Name for messages, and of the array to take if a ``.npz`` holds several.
        num_channels: 1 or 3: which channels of an OpenEXR are taken.

    Raises:
        SampleError: ``decode_failed``; ``too_large``; ``label_format`` if several arrays or
            channels would do.
    """
    if data.startswith(EXR_START):
        return _read_exr(data, what, num_channels)
    if data.startswith(NPZ_START):
        return _read_npz(data, what)
    if len(data) > MAX_NUMBER_BYTES + _HEAD_BYTES:
        raise SampleError("too_large", f"{what}: {len(data)} bytes; wanted one image's map")
    return decode_npy(data, what=what)


def numbers_shape(data: bytes, *, what: str) -> tuple[int, ...]:
    """Shape that the header of a file states; of an OpenEXR height and width.

    Args:
        data: The file; of a ``.npy`` the first bytes are enough.

    Raises:
        SampleError: As of :func:`read_numbers`.
    """
    if data.startswith(EXR_START):
        return _exr_size(_open_exr(data, what, header_only=True), what)
    if data.startswith(NPZ_START):
        return npy_layout(_npz_member(data, what, _HEAD_BYTES), what=what)[0]
    return npy_layout(data[:_HEAD_BYTES], what=what)[0]


def _read_npz(data: bytes, what: str) -> Array:
    """The header first: what is packed may grow a thousand times.

    Raises:
        SampleError: ``decode_failed``; ``too_large``.
    """
    _, num_bytes = npy_layout(_npz_member(data, what, _HEAD_BYTES), what=what)
    if num_bytes > MAX_NUMBER_BYTES:
        raise SampleError("too_large", f"{what}: {num_bytes} bytes; wanted one image's map")
    return decode_npy(_npz_member(data, what, num_bytes + 1), what=what)


def _npz_member(data: bytes, what: str, num_bytes: int) -> bytes:
    """The first bytes of the one array, or of the one called like the task.

    Raises:
        SampleError: ``decode_failed``; ``label_format`` if it is not clear which array to take.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            chosen = f"{what}.npy" if f"{what}.npy" in names else _only(names, what)
            with archive.open(chosen) as file:
                return file.read(num_bytes)
    except _ZIP_ERRORS as error:
        raise SampleError(
            "decode_failed", f"{what}: wanted a .npz: {str(error)[:200]}; save it again"
        ) from error


def _only(names: Sequence[str], what: str) -> str:
    if len(names) != 1:
        found = ", ".join(name.removesuffix(".npy") for name in names[:8]) or "none"
        raise SampleError(
            "label_format",
            f"{what}: wanted a .npz of one array, or one that is called {what}, found {found}",
        )
    return names[0]


def _read_exr(data: bytes, what: str, num_channels: int) -> Array:
    height, width = _exr_size(_open_exr(data, what, header_only=True), what)
    file = _open_exr(data, what, header_only=False)
    try:
        planes = {name: channel.pixels for name, channel in file.channels().items()}
    except _EXR_ERRORS as error:
        raise SampleError(*_damaged_exr(what, error)) from error
    planes = {
        name: plane
        for name, plane in planes.items()
        if plane is not None and plane.shape == (height, width)
    }
    return _vectors(planes, what) if num_channels == 3 else _plane(planes, what)


def _open_exr(data: bytes, what: str, *, header_only: bool) -> Any:
    try:
        import OpenEXR
    except ImportError as error:
        raise SampleError("label_format", f"{what}: found OpenEXR; {_EXR_REMEDY}") from error
    try:
        return OpenEXR.File(
            io.BytesIO(data), separate_channels=True, header_only=header_only, num_threads=0
        )
    except _EXR_ERRORS as error:
        raise SampleError(*_damaged_exr(what, error)) from error


def _damaged_exr(what: str, error: Exception) -> tuple[str, str]:
    # Its name of what it read, <python_buffer>, tells nobody anything.
    text = str(error)[:200].replace("'<python_buffer>' ", "it ")
    return "decode_failed", f"{what}: found a damaged OpenEXR ({text}); save it again"


def _exr_size(file: Any, what: str) -> tuple[int, int]:
    """Height and width, small enough to decode.

    Raises:
        SampleError: ``decode_failed``; ``label_format``; ``too_large``.
    """
    try:
        header = file.header()
        (left, top), (right, bottom) = header["dataWindow"]
        kind, num_channels = str(header["type"]), len(header["channels"])
    except _EXR_ERRORS as error:
        raise SampleError(*_damaged_exr(what, error)) from error
    if "deep" in kind:
        raise SampleError("label_format", f"{what}: found a deep OpenEXR; save a flat one")
    height, width = int(bottom) - int(top) + 1, int(right) - int(left) + 1
    if height * width * num_channels * 4 > MAX_NUMBER_BYTES:
        raise SampleError(
            "too_large", f"{what}: {width} x {height} pixels of {num_channels} channels; scale it"
        )
    return height, width


def _plane(planes: Mapping[str, Array], what: str) -> Array:
    if len(planes) == 1:
        return next(iter(planes.values()))
    by_name = _by_last_name(planes)
    for name in _PLANE_CHANNELS:
        if name in by_name:
            return by_name[name]
    colours = [by_name[name] for name in "rgb" if name in by_name]
    if len(colours) == 3 and all(np.array_equal(colours[0], one) for one in colours[1:]):
        return colours[0]
    raise _unclear_channels(planes, what, "one channel, or one that is called Z, Y or depth")


def _vectors(planes: Mapping[str, Array], what: str) -> Array:
    by_name = _by_last_name(planes)
    for names in _VECTOR_CHANNELS:
        if all(name in by_name for name in names):
            return np.stack([by_name[name] for name in names], axis=-1)
    raise _unclear_channels(planes, what, "channels R, G, B or X, Y, Z")


def _by_last_name(planes: Mapping[str, Array]) -> dict[str, Array]:
    """Channels whose last part of the name no other has, in small letters."""
    last = [name.rpartition(".")[2].lower() for name in planes]
    return {
        short: plane
        for short, plane in zip(last, planes.values(), strict=True)
        if last.count(short) == 1
    }


def _unclear_channels(planes: Mapping[str, Array], what: str, wanted: str) -> SampleError:
    found = ", ".join(list(planes)[:8]) or "none"
    return SampleError("label_format", f"{what}: wanted an OpenEXR with {wanted}, found {found}")
