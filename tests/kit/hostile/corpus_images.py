"""Hostile images and label maps, with the outcome of each."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.errors import SourceError
from schemas.sample import Sample, Task
from tests.kit.hostile import pictures
from tests.kit.hostile.folders import read_image, read_label
from tests.kit.hostile.outcomes import PICKLE, Accepted, Item, Refused, Row
from tests.kit.hostile.pictures import BLUE, RED, SIZE_PX, chunk, save, two_halves, with_chunk

GOOD = save(two_halves())
MOST_PIXELS = 64 * 2**20


def image(name: str, data: bytes, outcome: Any, file: str = "0001.png") -> Item:
    return Item(f"image: {name}", lambda folder: read_image(folder, data, file), outcome)


def label(
    name: str, task: Task, data: bytes, outcome: Any, suffix: str = ".png", **fields: Any
) -> Item:
    def read(folder: Path) -> Any:
        return read_label(folder, data, task, suffix, **fields)

    return Item(f"{task}: {name}", read, outcome)


def shows(left: tuple[int, ...], right: tuple[int, ...], *, axis: int = 1) -> Accepted:
    """Read, with these colours in the two halves along an axis."""

    def check(found: Any) -> bool:
        assert isinstance(found, Sample), found
        halves = np.split(found.image.astype(int), 2, axis=axis)
        means = [half.reshape(-1, 3).mean(axis=0) for half in halves]
        assert np.allclose(means, [left, right], atol=12), means
        return True

    return Accepted(check)


def holds(task: Task, value: Any) -> Accepted:
    """Read, with one value of the label all over."""

    def check(found: Any) -> bool:
        assert isinstance(found, Sample), found
        assert np.allclose(found.labels[task], value, atol=0.02), found.labels[task]
        return True

    return Accepted(check)


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_header(text: str) -> bytes:
    """A NumPy file without numbers, whose header says what it likes."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def map_of(value: float, dtype: str = "float32", size: tuple[int, ...] = (SIZE_PX, SIZE_PX)) -> Any:
    return np.full(size, value, dtype)


def _animation(form: str, **options: Any) -> bytes:
    second = Image.fromarray(np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8))
    return save(two_halves(), form, save_all=True, append_images=[second], **options)


def _palette_of_ids(value: int) -> bytes:
    picture = Image.fromarray(map_of(value, "uint8"))
    picture.putpalette([200, 30, 30] * 256)
    return save(picture)


def _transparent() -> bytes:
    picture = two_halves()
    picture.putalpha(0)
    return save(picture)


def with_segment(marker: int, data: bytes) -> bytes:
    """A JPEG with another application segment right behind its start."""
    photo = save(two_halves(), "JPEG", quality=95)
    return photo[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + photo[2:]


TEXT_BOMB = chunk(b"zTXt", b"note\0\0" + pictures.zeros_deflated(64 << 20))
PROFILE_BOMB = chunk(b"iCCP", b"icc\0\0" + pictures.zeros_deflated(64 << 20))
LONG_TEXT = chunk(b"tEXt", b"note\0" + b"x" * (8 << 20))
BAD_EXIF = chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 64)
LONG_EXIF = chunk(b"eXIf", pictures.repeating_tags(20000) + bytes(8 << 20))
PHOTO = shows(RED, BLUE)
PIXELS_BOMB = pictures.png(
    pictures.header(SIZE_PX, SIZE_PX), chunk(b"IDAT", pictures.zeros_deflated(64 << 20))
)
GIF_BOMB = b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0)
GIF_BOMB += struct.pack("<BHHHHBBB", 0x2C, 0, 0, 60000, 60000, 0, 8, 0) + b";"
BMP_BOMB = b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30000, 30000, 1, 24, *[0] * 6)
WEBP_SIZE = (16383 - 1).to_bytes(3, "little")
WEBP_BOMB = save(two_halves(), "WEBP", exif=Image.Exif().tobytes())
WEBP_BOMB = WEBP_BOMB[:24] + 2 * WEBP_SIZE + WEBP_BOMB[30:]
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'
DECODE_FAILED = Row("decode_failed", "wanted a picture, found ")


def refused(words: str) -> Row:
    """Left out, with these words for what the file is."""
    return Row("decode_failed", f"wanted a picture, found {words}")


IMAGES = [
    image("empty", b"", refused("an empty file; copy it again")),
    image("one byte", b"\x89", DECODE_FAILED),
    image("only a signature", pictures.SIGNATURE, DECODE_FAILED),
    image("PNG cut in its pixels", GOOD[: len(GOOD) - 30], refused("a damaged PNG")),
    image("PNG cut in its header", GOOD[:20], DECODE_FAILED),
    image("JPEG cut in half", save(two_halves(), "JPEG")[:400], DECODE_FAILED),
    image("PNG with a wrong checksum", GOOD[:29] + b"\0\0\0\0" + GOOD[33:], DECODE_FAILED),
    image("PNG without a width", pictures.bomb(0, 4), DECODE_FAILED),
    image("100 gigapixels in 100 bytes", pictures.bomb(10**6, 10**5), Row("too_large")),
    image("widest and highest PNG", pictures.bomb(2**31 - 1, 2**31 - 1), Row("too_large")),
    image("one pixel too many", pictures.bomb(MOST_PIXELS + 1, 1), Row("too_large")),
    image("as many pixels as allowed, none there", pictures.bomb(MOST_PIXELS, 1), DECODE_FAILED),
    image("more pixel data than pixels", PIXELS_BOMB, shows((0, 0, 0), (0, 0, 0))),
    image("compressed text that inflates", with_chunk(GOOD, TEXT_BOMB), shows(RED, BLUE)),
    image("colour profile that inflates", with_chunk(GOOD, PROFILE_BOMB), shows(RED, BLUE)),
    image("8 MB of text", with_chunk(GOOD, LONG_TEXT), shows(RED, BLUE)),
    image("EXIF of noise", with_chunk(GOOD, BAD_EXIF), shows(RED, BLUE)),
    image("EXIF that is no EXIF", with_chunk(GOOD, chunk(b"eXIf", b"b'Exif'")), shows(RED, BLUE)),
    image("EXIF of 8 MB", with_chunk(GOOD, LONG_EXIF), shows(RED, BLUE)),
    image(
        "EXIF with a wrong checksum", with_chunk(GOOD, BAD_EXIF[:-4] + bytes(4)), shows(RED, BLUE)
    ),
    image(
        "EXIF of noise in a JPEG", with_segment(0xE1, b"Exif\0\0II*\0" + bytes(range(99))), PHOTO
    ),
    image("multi-picture index of noise", with_segment(0xE2, b"MPF\0II*\0" + b"\xff" * 99), PHOTO),
    image("a profile of noise in a JPEG", with_segment(0xE2, b"ICC_PROFILE\0\1\1xx"), PHOTO),
    image("a comment that is longer than the file", b"\xff\xd8\xff\xfe\xff\xff", DECODE_FAILED),
    image("CMYK JPEG", save(two_halves().convert("CMYK"), "JPEG"), shows(RED, BLUE)),
    image("palette", save(two_halves().quantize(4)), shows(RED, BLUE)),
    image("transparent", _transparent(), shows(RED, BLUE)),
    image("grey", pictures.grey(90), shows((90,) * 3, (90,) * 3)),
    image(
        "black and white", save(two_halves().convert("1")), Accepted(lambda one: one.image.shape)
    ),
    image("16-bit grey", pictures.grey16(map_of(40 * 257)), shows((40,) * 3, (40,) * 3)),
    image("16-bit colour", pictures.rgb16(), shows(RED, BLUE)),
    image("EXIF: a quarter turn", pictures.turned(6), shows(RED, BLUE, axis=0)),
    image("EXIF: upside down", pictures.turned(3), shows(BLUE, RED)),
    image("EXIF: no such orientation", pictures.turned(99), shows(RED, BLUE)),
    image("EXIF in a PNG", pictures.turned(6, form="PNG"), shows(RED, BLUE, axis=0)),
    image("animated PNG", _animation("PNG"), shows(RED, BLUE)),
    image("animated GIF as PNG", _animation("GIF"), shows(RED, BLUE)),
    image("JPEG named PNG", save(two_halves(), "JPEG", quality=95), shows(RED, BLUE)),
    image("PostScript as PNG", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", DECODE_FAILED),
    image("SVG as PNG", SVG, refused("an SVG drawing")),
    image(
        "HTML as PNG",
        b"<!DOCTYPE html><html>404 Not Found</html>",
        refused("an HTML page; download the file itself"),
    ),
    image(
        "Git LFS pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        refused("a Git LFS pointer in place of the file; run: git lfs pull"),
    ),
    image("text as PNG", b"Access denied\n", refused("text ('Access denied')")),
    image("AppleDouble", b"\0\x05\x16\x07\0\2\0\0Mac OS X", refused("an AppleDouble file")),
    image("NumPy file as PNG", npy(np.zeros(3)), refused("a NumPy file")),
    image("TIFF as PNG", save(two_halves(), "TIFF"), shows(RED, BLUE)),
    image("BMP as PNG", save(two_halves(), "BMP"), shows(RED, BLUE)),
    image("WebP as PNG", save(two_halves(), "WEBP", lossless=True), shows(RED, BLUE)),
    image("AVIF as PNG", save(two_halves(), "AVIF", quality=95), shows(RED, BLUE)),
    image("animated WebP", _animation("WEBP", lossless=True), shows(RED, BLUE)),
    image("TIFF of two pages", _animation("TIFF"), shows(RED, BLUE)),
    image("WebP cut", save(two_halves(), "WEBP")[:-30], refused("a damaged WEBP")),
    image("AVIF cut", save(two_halves(), "AVIF")[:-30], refused("a damaged AVIF")),
    image("GIF cut", save(two_halves(), "GIF")[:60], refused("a damaged GIF")),
    image("BMP cut", save(two_halves(), "BMP")[:60], refused("a damaged BMP")),
    image("TIFF cut", save(two_halves(), "TIFF")[:60], refused("a damaged TIFF")),
    image("TIFF with a huge tile", pictures.tiled(2**15), Row("too_large")),
    image("GIF of a gigapixel", GIF_BOMB, Row("too_large")),
    image("BMP of a gigapixel", BMP_BOMB, Row("too_large")),
    image("WebP of a gigapixel", WEBP_BOMB, Row("too_large")),
    image("TIFF whose tags repeat the file", pictures.repeating_tags(4000), DECODE_FAILED),
    image("metres as TIFF", save(Image.fromarray(map_of(2.5)), "TIFF"), DECODE_FAILED),
    image(
        "16-bit grey TIFF",
        save(Image.fromarray(map_of(40 * 257, "uint16")), "TIFF"),
        shows((40,) * 3, (40,) * 3),
    ),
    image("a pickle as PNG", PICKLE, refused("bytes of no known kind")),
    image("2000 x 2000", save(Image.new("RGB", (2000, 2000), RED)), shows(RED, RED)),
]

CUT_TIFF = Row("decode_failed", "a damaged TIFF")
EIGHT_BITS = "8-bit grey; depth wants 16 bit or .npy"
CLASSES = {"num_classes": 4}
OTHER_SIZE = Refused(SourceError, "wanted equal sizes")
LABELS = [
    label("empty", "depth", b"", Row("decode_failed")),
    label("cut", "depth", pictures.grey16(map_of(1))[:40], Row("decode_failed")),
    label("JPEG", "semseg", save(two_halves(), "JPEG"), Row("decode_failed"), **CLASSES),
    label("8 bits for 16", "depth", pictures.grey(), Row("label_format", EIGHT_BITS)),
    label("colours for ids", "semseg", GOOD, Row("label_format"), **CLASSES),
    label("ids for colours", "normals", pictures.grey(), Row("label_format")),
    label("16 bits for colours", "normals", pictures.grey16(map_of(1)), Row("label_format")),
    label(
        "mid-grey is no direction",
        "normals",
        save(two_halves().point(lambda _: 128)),
        holds("normals", 0),
    ),
    label("farthest", "depth", pictures.grey16(map_of(65535)), holds("depth", 65.535)),
    label("beyond the limit", "depth", pictures.grey16(map_of(9000)), holds("depth", 0), max_m=5.0),
    label(
        "metres without end",
        "depth",
        pictures.grey16(map_of(9)),
        Refused(SourceError, "labels.depth"),
        unit=float("inf"),
    ),
    label(
        "metres beyond float32",
        "depth",
        pictures.grey16(map_of(65535)),
        Refused(SourceError, "labels.depth"),
        unit=1e38,
    ),
    label(
        "no such class",
        "semseg",
        pictures.grey(4),
        Row("class_id_out_of_range", "stored id 4"),
        **CLASSES,
    ),
    label(
        "negative after the offset",
        "semseg",
        pictures.grey(0),
        Row("class_id_out_of_range"),
        id_offset=-1,
        **CLASSES,
    ),
    label(
        "an offset beyond 64 bits",
        "semseg",
        pictures.grey(0),
        Refused(SourceError, "id_offset"),
        id_offset=2**70,
        **CLASSES,
    ),
    label("class ids of a palette", "semseg", _palette_of_ids(2), holds("semseg", 2), **CLASSES),
    label("of another size", "depth", pictures.grey16(map_of(1, size=(8, 8))), OTHER_SIZE),
    label(
        "exabytes of one size",
        "saliency",
        npy_header("{'descr': '|V1000000000', 'fortran_order': False, 'shape': (16, 16)}"),
        Row("decode_failed"),
        ".npy",
    ),
    label("huge", "depth", pictures.bomb(10**6, 10**5), Row("too_large")),
    label("not a number", "saliency", npy(map_of(np.nan)), Row("probability_out_of_range"), ".npy"),
    label("infinite", "saliency", npy(map_of(np.inf)), Row("probability_out_of_range"), ".npy"),
    label("negative", "saliency", npy(map_of(-0.5)), Row("probability_out_of_range"), ".npy"),
    label("above one", "saliency", npy(map_of(1.5)), Row("probability_out_of_range"), ".npy"),
    label("complex", "saliency", npy(map_of(1, "complex64")), Row("label_format"), ".npy"),
    label("texts", "saliency", npy(np.full((SIZE_PX, SIZE_PX), "1")), Row("label_format"), ".npy"),
    label(
        "records",
        "saliency",
        npy(np.zeros((SIZE_PX, SIZE_PX), "f4,f4")),
        Row("label_format"),
        ".npy",
    ),
    label("one axis", "saliency", npy(np.zeros(SIZE_PX)), Row("label_format"), ".npy"),
    label("no axis", "saliency", npy(np.float32(1)), Row("label_format"), ".npy"),
    label("no pixels", "saliency", npy(np.zeros((0, 0))), Refused(SourceError, "0 x 0"), ".npy"),
    label(
        "NumPy objects",
        "saliency",
        npy(np.full((SIZE_PX, SIZE_PX), None), allow_pickle=True),
        Row("decode_failed"),
        ".npy",
    ),
    label("a pickle as NumPy", "saliency", PICKLE, Row("decode_failed"), ".npy"),
    label("NumPy file cut", "saliency", npy(map_of(1))[:-9], Row("decode_failed"), ".npy"),
    label(
        "NumPy file longer than it says",
        "saliency",
        npy(map_of(1)) + b"\0" * 9,
        Row("decode_failed"),
        ".npy",
    ),
    label(
        "exabytes",
        "saliency",
        npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000000)}"),
        OTHER_SIZE,
        ".npy",
    ),
    label(
        "more than 64 bits of axes",
        "saliency",
        npy_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**30}, 16)}}"),
        OTHER_SIZE,
        ".npy",
    ),
    label(
        "negative axes",
        "saliency",
        npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-16, -16)}"),
        OTHER_SIZE,
        ".npy",
    ),
    label(
        "code in a NumPy header",
        "saliency",
        npy_header("__import__('os').abort()"),
        Row("decode_failed"),
        ".npy",
    ),
    label(
        "brackets in a NumPy header",
        "saliency",
        npy_header("(" * 9000),
        Row("decode_failed"),
        ".npy",
    ),
    label(
        "a NumPy header of 60 kB",
        "saliency",
        npy_header("{" + " " * 60000 + "}"),
        Row("decode_failed"),
        ".npy",
    ),
    label(
        "NumPy file in Fortran order",
        "saliency",
        npy(np.asfortranarray(map_of(0.5))),
        holds("saliency", 0.5),
        ".npy",
    ),
    label(
        "compressed text that inflates",
        "semseg",
        with_chunk(pictures.grey(3), TEXT_BOMB),
        holds("semseg", 3),
        **CLASSES,
    ),
    label("a zip that is none", "depth", b"PK\x03\x04" + bytes(60), Row("decode_failed"), ".npz"),
    label(
        "an OpenEXR that is none",
        "depth",
        b"\x76\x2f\x31\x01" + b"\xff" * 60,
        Row("decode_failed", "OpenEXR"),
        ".exr",
    ),
    label("TIFF of ids cut", "semseg", save(two_halves(), "TIFF")[:60], CUT_TIFF, **CLASSES),
    label("a tile without end", "semseg", pictures.tiled(2**15), OTHER_SIZE, **CLASSES),
    label("a page for a map", "depth", SVG, Row("decode_failed", "found an SVG drawing")),
    label("colours without a table", "semseg", GOOD, Row("label_format", "2 colours"), **CLASSES),
    label(
        "a colour that the table lacks",
        "semseg",
        GOOD,
        Row("class_id_out_of_range", "colour #1e1ec8"),
        colors=["#c81e1e"],
        **CLASSES,
    ),
    label(
        "a table of everything",
        "semseg",
        GOOD,
        Refused(SourceError, "labels.semseg.colors"),
        colors={str(number): number for number in range(10_000)},
        **CLASSES,
    ),
    label(
        "a damaged zlib stream",
        "depth",
        pictures.png(
            pictures.header(SIZE_PX, SIZE_PX, bits=16, colour=0),
            chunk(b"IDAT", zlib.compress(b"")[:-2]),
        ),
        Row("decode_failed"),
    ),
]
