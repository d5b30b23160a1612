"""PNG, JPEG and other pictures written byte by byte, well-formed and not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIZE_PX = 16
SIGNATURE = b"\x89PNG\r\n\x1a\n"
RED, BLUE = (200, 30, 30), (30, 30, 200)


def two_halves() -> Image.Image:
    """Left half red, right half blue."""
    pixels = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    pixels[:, : SIZE_PX // 2], pixels[:, SIZE_PX // 2 :] = RED, BLUE
    return Image.fromarray(pixels)


def save(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def header(width: int, height: int, *, bits: int = 8, colour: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def png(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


def with_chunk(data: bytes, extra: bytes) -> bytes:
    """A PNG with another chunk right behind its header."""
    end = len(SIGNATURE) + 25
    return data[:end] + extra + data[end:]


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""
    return png(header(width, height), chunk(b"IDAT", zlib.compress(b"\0" * 64)))


def zeros_deflated(num_bytes: int) -> bytes:
    """A small zlib stream that inflates to many zeros."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(num_bytes >> 20)]
    return b"".join(parts) + packer.flush()


def grey16(values: np.ndarray) -> bytes:
    return save(Image.fromarray(values.astype(np.uint16)))


def rgb16() -> bytes:
    """Sixteen bits a channel, which PIL cannot write: the left half red, the right half blue."""
    line = b"\0" + b"".join(
        struct.pack(">3H", *(257 * value for value in (RED if x < SIZE_PX // 2 else BLUE)))
        for x in range(SIZE_PX)
    )
    return png(header(SIZE_PX, SIZE_PX, bits=16), chunk(b"IDAT", zlib.compress(line * SIZE_PX)))


def turned(orientation: int, *, form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(two_halves(), form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))


def grey(value: int = 3) -> bytes:
    return save(Image.fromarray(np.full((SIZE_PX, SIZE_PX), value, np.uint8)))


def tiff(*tags: tuple[int, int, int, int], extra: bytes = b"") -> bytes:
    """A TIFF of these tags alone: number, type, count, and the value or its place."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + extra


def tiled(side: int) -> bytes:
    """A TIFF of one pixel in a tile that says it is huge."""
    short, long = 3, 4
    layout = [(256, 1), (257, 1), (258, 8), (259, 5), (262, 1), (277, 1)]
    tags = [(number, short, 1, value) for number, value in layout]
    tiles = [(322, side), (323, side), (324, 8), (325, 64)]
    return tiff(*tags, *((number, long, 1, value) for number, value in tiles), extra=bytes(64))


def repeating_tags(count: int) -> bytes:
    """A TIFF with many tags that each point at all of the file."""
    size = 10 + 12 * count
    return tiff(*((1000 + number, 1, size, 0) for number in range(count)))
