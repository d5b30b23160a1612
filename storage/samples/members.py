"""Files of any origin to arrays and values: pictures, NumPy, JSON.

Whatever cannot be read becomes a SampleError, before anything large is allocated.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import re
import struct
import tokenize
import warnings
import zlib
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from schemas.errors import SampleError
from schemas.recognise import HEIC_REMEDY, picture_format, what_it_is
from storage.samples.metadata import upright, without_metadata

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

T = TypeVar("T")

MAX_PIXELS = 64 * 2**20
"""Images of more pixels are refused before they are decoded."""

HEIC_SUFFIXES = frozenset({".heic", ".heif"})
"""Suffixes of pictures that are read if the extra ``heic`` is installed."""

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""PIL's names of the formats that are read without an extra."""

HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"}
) | (HEIC_SUFFIXES if HAS_HEIC else frozenset())
"""Suffixes, in small letters, of the pictures that :func:`read_rgb` reads here; the content of a
file, not its suffix, decides how it is read."""

# Level 1 encodes photographs 3 times and normals 6 times as fast as PIL's 6, for files that are
# 10 to 30 per cent larger (measured on indoor images of 210 x 280).
_COMPRESS_LEVEL = 1
DECODE_ERRORS = (
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    struct.error,
    zlib.error,
)
"""What PIL raises on damaged pictures; the types say where it noticed."""

MODE_WORDS = {
    "1": "1-bit black and white",
    "L": "8-bit grey",
    "LA": "8-bit grey with transparency",
    "P": "a palette picture",
    "PA": "a palette picture with transparency",
    "RGB": "a colour picture",
    "RGBA": "a colour picture with transparency",
    "CMYK": "a colour picture for print (CMYK)",
    "I;16": "16-bit grey",
    "I;16B": "16-bit grey",
    "I": "32-bit grey",
    "F": "floating-point grey",
}
"""What people call PIL's pixel formats."""

# They tell of damaged metadata and of sizes that are refused here anyhow, once for each tag.
warnings.filterwarnings("ignore", module=r"PIL\.")

_MAX_16_BIT = 65535
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What NumPy raises on headers that are none; the last three on thousands of brackets.
_HEADER_ERRORS = (
    ValueError,
    TypeError,
    SyntaxError,
    KeyError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
)
_MAX_JSON_BYTES = 2**22
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


def write_png(array: NDArray[Any]) -> bytes:
    """Encode uint8 or uint16 [H, W], or uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(
        buffer, format="PNG", compress_level=_COMPRESS_LEVEL
    )
    return buffer.getvalue()


def read_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a picture of any mode as RGB [H, W, 3], upright; of an animation the first image.

    Raises:
        SampleError: ``too_large``; ``decode_failed`` if damaged or of a format that is not read.
    """
    return _open(data, formats=_image_formats(data), max_pixels=max_pixels, convert=rgb_of)


def read_label_png(data: bytes, *, modes: tuple[str, ...], what: str) -> NDArray[Any]:
    """Decode a PNG as it is stored; of a palette image the indices.

    Args:
        modes: PIL's names of the pixel formats that are accepted.

    Raises:
        SampleError: ``too_large``, ``decode_failed``, or ``label_format`` if of another mode.
    """
    values, mode = read_stored(data, formats=("PNG",), what=what)
    if mode not in modes:
        raise SampleError(
            "label_format", f"{what}: wanted {MODE_WORDS[modes[0]]}, found {mode_words(mode)}"
        )
    return values


def read_stored(
    data: bytes,
    *,
    formats: tuple[str, ...],
    what: str,
    others: tuple[str, ...] = (),
    convert: str | None = None,
) -> tuple[NDArray[Any], str]:
    """Decode a picture as it is stored, and PIL's name of its pixel format.

    Args:
        others: Kinds of files that the caller reads besides, for messages.
        convert: PIL's name of the pixel format to convert to; of a palette image None gives the
            indices.

    Raises:
        SampleError: ``too_large``, ``decode_failed``.
    """

    def stored(picture: Image.Image) -> tuple[NDArray[Any], str]:
        picture.load()
        return np.array(picture.convert(convert) if convert else picture), picture.mode

    *most, last = (*formats, *others)
    wanted = f"{what}: wanted {' or '.join(filter(None, (', '.join(most), last)))}"
    return _open(data, formats=formats, max_pixels=MAX_PIXELS, convert=stored, wanted=wanted)


def mode_words(mode: str) -> str:
    """What people call a pixel format of PIL."""
    return MODE_WORDS.get(mode, f"pixels of kind {mode}")


def rgb_of(picture: Image.Image) -> NDArray[np.uint8]:
    """A picture of any mode as RGB [H, W, 3], upright; 16-bit channels keep their upper 8 bits.

    Raises:
        ValueError: If its numbers are no brightness, such as metres.
    """
    picture.load()
    turned = upright(picture)
    if turned.mode == "F":
        raise ValueError("floating-point numbers; a photograph has 8 or 16 bits a channel")
    if turned.mode.startswith("I"):
        # PIL would clip 16-bit grey at 255.
        grey = np.asarray(turned)
        if grey.min() < 0 or grey.max() > _MAX_16_BIT:
            raise ValueError("32-bit numbers; a photograph has 8 or 16 bits a channel")
        turned = Image.fromarray((grey >> 8).astype(np.uint8))
    return np.array(turned if turned.mode == "RGB" else turned.convert("RGB"), dtype=np.uint8)


def _image_formats(data: bytes) -> tuple[str, ...]:
    if picture_format(data) != "HEIC":
        return PICTURE_FORMATS
    if not HAS_HEIC:
        raise SampleError("decode_failed", f"wanted a picture, found HEIC; {HEIC_REMEDY}")
    import pillow_heif

    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _open(
    data: bytes,
    *,
    formats: tuple[str, ...],
    max_pixels: int,
    convert: Callable[[Image.Image], T],
    wanted: str = "wanted a picture",
) -> T:
    """Open and convert; once more without metadata if that fails.

    Raises:
        SampleError: ``too_large``, ``decode_failed``.
    """
    try:
        return _open_once(data, formats, max_pixels, convert)
    except DECODE_ERRORS as error:
        cause = error
    for pixels in without_metadata(data):
        with contextlib.suppress(*DECODE_ERRORS):
            return _open_once(pixels, formats, max_pixels, convert)
    found = _found(data, formats, cause)
    raise SampleError("decode_failed", f"{wanted}, found {found}") from cause


def _open_once(
    data: bytes,
    formats: tuple[str, ...],
    max_pixels: int,
    convert: Callable[[Image.Image], T],
) -> T:
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        # PIL says how many pixels there are only in its sentence.
        found = re.search(r"\d+", str(error))
        count = found[0] if found else "too many"
        raise SampleError(
            "too_large", f"{count} pixels: wanted at most {max_pixels}; scale it"
        ) from error
    width, height = picture.size
    if max(width * height, _tile_pixels(picture)) > max_pixels:
        raise SampleError(
            "too_large", f"{width} x {height} pixels: wanted at most {max_pixels}; scale it"
        )
    return convert(picture)


def _tile_pixels(picture: Image.Image) -> int:
    """Pixels of a tile of a TIFF: a whole one is decoded, however small the picture."""
    if not isinstance(picture, TiffImageFile):
        return 0
    return int(picture.tag_v2.get(TILEWIDTH, 0)) * int(picture.tag_v2.get(TILELENGTH, 0))


def _found(data: bytes, formats: tuple[str, ...], cause: Exception) -> str:
    name = picture_format(data)
    if name == "HEIC" and "HEIF" in formats:
        return "a damaged HEIC; export it as JPEG"
    if name not in formats:
        return f"a {name}" if name else what_it_is(data)
    if "truncated" in str(cause):
        return f"a damaged {name}, which ends too early; copy it again"
    # Where PIL does not know the format either, its message names only the object that it read.
    reason = "" if isinstance(cause, UnidentifiedImageError) else f" ({str(cause)[:200]})"
    return f"a damaged {name}{reason}"


def decode_npy(data: bytes, *, what: str) -> NDArray[Any]:
    """Decode a file that ``numpy.save`` wrote; objects are refused, nothing is ever unpickled.

    Returns:
        The array, of any kind of plain type; read-only.

    Raises:
        SampleError: ``decode_failed`` if the file is damaged, holds objects, or has not exactly as
            many bytes as its header says.
    """
    stream = io.BytesIO(data)
    shape, is_fortran, dtype = _read_header(stream, what)
    wanted = math.prod(shape) * dtype.itemsize
    found = len(data) - stream.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or wanted != found:
        raise SampleError(
            "decode_failed",
            f"{what}: wanted a NumPy file of numbers, found {str(dtype)[:40]} {str(shape)[:80]} "
            f"in {found} bytes; save it again with allow_pickle=False",
        )
    flat = np.frombuffer(data, dtype=dtype, offset=stream.tell(), count=math.prod(shape))
    return flat.reshape(shape, order="F" if is_fortran else "C")


def npy_layout(head: bytes, *, what: str) -> tuple[tuple[int, ...], int]:
    """Shape and number of bytes of the whole file that the header of a NumPy file states.

    Args:
        head: The first bytes of the file, header included.

    Raises:
        SampleError: ``decode_failed`` if it is no such header.
    """
    stream = io.BytesIO(head)
    shape, _, dtype = _read_header(stream, what)
    return shape, stream.tell() + math.prod(shape) * dtype.itemsize


def _read_header(stream: io.BytesIO, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        return _HEADER_READERS[version](stream)
    except _HEADER_ERRORS as error:
        raise SampleError(
            "decode_failed", f"{what}: wanted a NumPy file: {str(error)[:200]}; save it again"
        ) from error


def decode_json(key: str, data: bytes) -> dict[str, Any]:
    """Decode an object whose ``caption``, if there is one, is a text.

    Args:
        data: UTF-8, at most 4 MiB.

    Raises:
        SampleError: ``json_invalid``, also on NaN, infinite numbers and thousands of brackets.
    """
    if len(data) > _MAX_JSON_BYTES:
        raise SampleError(
            "json_invalid", f"{key}: {len(data)} bytes; wanted at most {_MAX_JSON_BYTES}"
        )
    try:
        document = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SampleError("json_invalid", f"{key}: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise SampleError("json_invalid", f"{key}: wanted an object, found {type(document)}")
    caption = document.get("caption", "")
    if not isinstance(caption, str) or _LONE_SURROGATE.search(caption):
        raise SampleError("json_invalid", f"{key}: caption: wanted a text, found {caption!r:.40}")
    return document


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
