"""What a file is, by its first bytes and in the words of the people who have it."""

from __future__ import annotations

import re

HEIC_REMEDY = "to read HEIC, pip install '.[heic]', or export it as JPEG"

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_NAMES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; run: git lfs pull"),
    (b"\x93NUMPY", "a NumPy file (.npy)"),
    (b"\x76\x2f\x31\x01", "an OpenEXR file (.exr)"),
    (b"PK\x03\x04", "a zip archive (.zip or .npz)"),
    (b"PK\x05\x06", "an empty zip archive (.zip or .npz)"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file (.mat); save its array as .npy"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF; export its pictures as PNG or JPEG"),
    (b"%!PS", "a PostScript file; export it as PNG"),
    (b"8BPS", "a Photoshop document; export it as PNG or JPEG"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture; save it as PNG or JPEG"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture; save it as PNG or JPEG"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture; save it as PNG or JPEG"),
    (b"\xff\x0a", "a JPEG XL picture; save it as PNG or JPEG"),
    (b"\0\x05\x16\x07", "an AppleDouble file (a macOS name that begins with ._); remove it"),
)
_HEAD_BYTES = 1024
_SHOWN_SIGNS = 40
_HTML = re.compile(rb"<!doctype html|<html|<head|<body", re.IGNORECASE)
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)


def picture_format(data: bytes) -> str:
    """PNG, JPEG, GIF, BMP, TIFF, WEBP, AVIF or HEIC; "" if it begins like none of them."""
    brand = data[8:12]
    if data[:4] == b"RIFF" and brand == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        # An AVIF may have mif1 as its main brand, and its own among the compatible ones.
        brands = {data[i : i + 4] for i in range(16, min(_box_bytes(data), _HEAD_BYTES), 4)}
        if brand in _AVIF_BRANDS or brands & set(_AVIF_BRANDS):
            return "AVIF"
        return "HEIC" if brand in _HEIC_BRANDS else ""
    return next((name for start, name in _NAMES if data.startswith(start)), "")


def what_it_is(data: bytes) -> str:
    """A noun for a file of no known picture format, and what to do about it if that is known."""
    if not data:
        return "an empty file; copy it again"
    head = data[:_HEAD_BYTES]
    if _SVG.search(head):
        return "an SVG drawing; export it as PNG"
    if _HTML.search(head):
        return "an HTML page; download the file itself"
    for start, words in _OTHERS:
        if data.startswith(start):
            return words
    return _text_or_bytes(head)


def _box_bytes(data: bytes) -> int:
    return int.from_bytes(data[:4], "big")


def _text_or_bytes(head: bytes) -> str:
    text = head.decode("utf-8", "ignore")
    is_text = len(text.encode()) > len(head) - 4 and all(
        sign.isprintable() or sign.isspace() for sign in text
    )
    if not is_text:
        return "bytes of no known kind"
    return f"text ({' '.join(text.split())[:_SHOWN_SIGNS]!r})"
