"""What pictures carry besides pixels: it may turn a picture, and never fails one."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from PIL import ExifTags, Image

if TYPE_CHECKING:
    from collections.abc import Iterator

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
_EXIF_START = b"Exif\0\0"
_ADOBE, _COMMENT, _START_OF_SCAN = 0xEE, 0xFE, 0xDA
# As long as JPEG lets it be; in a PNG nothing else would bound it.
_MAX_EXIF_BYTES = 1 << 16
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_QUARTER_TURN = 5


def orientation_of(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if there is none or it cannot be read."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - whatever damage leads PIL to, the pixels are good
        return 1
    return found if found in _TURNS else 1


def upright(picture: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation says that it is displayed."""
    turn = _TURNS.get(orientation_of(picture))
    return picture if turn is None else picture.transpose(turn)


def displayed_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height after :func:`upright`."""
    width, height = picture.size
    return (height, width) if orientation_of(picture) >= _FIRST_QUARTER_TURN else (width, height)


def without_metadata(data: bytes) -> Iterator[bytes]:
    """The same PNG or JPEG with nothing but pixels and EXIF, then with pixels alone.

    Nothing for other formats, or where the parts of the file cannot be told apart.
    """
    strip = _strip_png if data.startswith(_PNG_SIGNATURE) else _strip_jpeg
    if data.startswith((_PNG_SIGNATURE, _JPEG_START)):
        yield strip(data, keep_exif=True)
        yield strip(data, keep_exif=False)


def _strip_png(data: bytes, *, keep_exif: bool) -> bytes:
    """Keep the chunks that decide about pixels: their names begin with a capital letter."""
    kept = [_PNG_SIGNATURE]
    place = len(_PNG_SIGNATURE)
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        is_exif = keep_exif and name == b"eXIf" and length <= _MAX_EXIF_BYTES
        if name[:1].isupper() or is_exif:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _strip_jpeg(data: bytes, *, keep_exif: bool) -> bytes:
    """Drop comments and application segments but the one that says how colours are coded."""
    kept = [_JPEG_START]
    place = len(_JPEG_START)
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _START_OF_SCAN:
        marker = data[place + 1]
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        is_exif = keep_exif and data.startswith(_EXIF_START, place + 4)
        is_note = 0xE1 <= marker <= 0xEF or marker == _COMMENT
        if not is_note or marker == _ADOBE or is_exif:
            kept.append(data[place:end])
        place = end
    kept.append(data[place:])
    return b"".join(kept)
