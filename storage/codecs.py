"""Samples as bytes: images and labels as PNG members, everything else as one JSON member.

Arrays are as ``schemas.sample`` describes them; H and W are the image's. All decoders raise
SampleError, with a reason to count by, on bytes that they cannot or will not read.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from schemas.errors import SampleError
from schemas.sample import (
    CONFIDENCE_MEMBERS,
    IMAGE_MEMBER,
    JSON_MEMBER,
    LABEL_MEMBERS,
    TASKS,
    Sample,
    Task,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    UInt8 = NDArray[np.uint8]
    Float32 = NDArray[np.float32]

MAX_PIXELS = 64 * 2**20
"""Images of more pixels are refused before they are decoded."""

MAX_DEPTH_M = 65.535
"""Greatest depth that 16 bits of millimetres hold; what is farther is stored as invalid."""

# Level 1 encodes photographs 3 times and normals 6 times as fast as PIL's 6, for files that are
# 10 to 30 per cent larger (measured on indoor images of 210 x 280).
_COMPRESS_LEVEL = 1
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
_OWN_JSON_FIELDS = ("key", "caption", "is_synthetic")
_LEAST_NORM = 0.5


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """Encode a sample as members of a tar.

    Raises:
        ValueError: If an array has another shape or type than ``schemas.sample`` says, or ``meta``
            holds a field of the sample itself or something that JSON cannot.
    """
    members = {IMAGE_MEMBER: encode_image_png(sample.image)}
    size = sample.image.shape[:2]
    for task, label in sample.labels.items():
        _expect_size(label, size, task)
        members[LABEL_MEMBERS[task]] = _LABEL_ENCODERS[task](label)
    for task, confidence in sample.confidence.items():
        _expect_size(confidence, size, f"{task} confidence")
        members[CONFIDENCE_MEMBERS[task]] = encode_confidence_png(confidence, task=task)
    members[JSON_MEMBER] = _encode_json(sample)
    return members


def decode_sample(key: str, members: Mapping[str, bytes]) -> Sample:
    """Decode the members of a key; members with unknown names are left out.

    Raises:
        SampleError: ``member_missing``, ``label_size_differs``, ``json_invalid``, or as the
            decoders of the members say.
    """
    if IMAGE_MEMBER not in members:
        raise SampleError("member_missing", f"{key}: wanted {IMAGE_MEMBER}, found {list(members)}")
    image = decode_image(members[IMAGE_MEMBER])
    labels: dict[Task, NDArray[Any]] = {}
    confidence: dict[Task, NDArray[Any]] = {}
    for task in TASKS:
        if (data := members.get(LABEL_MEMBERS[task])) is not None:
            labels[task] = _LABEL_DECODERS[task](data)
        if (data := members.get(CONFIDENCE_MEMBERS[task])) is not None:
            confidence[task] = decode_confidence(data, task=task)
    for array in (*labels.values(), *confidence.values()):
        if array.shape[:2] != image.shape[:2]:
            raise SampleError(
                "label_size_differs",
                f"{key}: image is {image.shape[:2]}, a label is {array.shape[:2]} (height, width)",
            )
    meta = _decode_json(key, members.get(JSON_MEMBER, b"{}"))
    return Sample(
        key=key,
        image=image,
        labels=labels,
        confidence=confidence,
        caption=str(meta.pop("caption", "")),
        is_synthetic=bool(meta.pop("is_synthetic", False)),
        meta={name: value for name, value in meta.items() if name != "key"},
    )


def encode_image_png(image: UInt8) -> bytes:
    """Encode an image.

    Args:
        image: uint8 RGB [H, W, 3].

    Raises:
        ValueError: On another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: wanted uint8 [H, W, 3], found {image.dtype} {image.shape}")
    return _png(image)


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Decode a photograph or rendering.

    The EXIF orientation is applied; grey, palette and CMYK images become RGB; transparency is
    dropped; 16-bit channels keep their upper 8 bits.

    Args:
        data: A PNG or JPEG file.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        SampleError: ``too_large``; ``decode_failed`` if damaged or of another format.
    """
    picture = _open(data, formats=("PNG", "JPEG"), max_pixels=max_pixels, convert=_to_rgb)
    return np.array(picture, dtype=np.uint8)


def encode_normals_png(normals: Float32) -> bytes:
    """Encode normals as 8-bit RGB: v = round((n + 1) · 127.5), and (0, 0, 0) where invalid.

    Vectors are scaled to unit length first; a zero or not finite one is invalid. A unit vector
    never becomes (0, 0, 0): its components cannot all be below -1/√3.

    Args:
        normals: float32 [H, W, 3], camera frame.

    Raises:
        ValueError: On another shape.
    """
    if normals.ndim != 3 or normals.shape[2] != 3:
        raise ValueError(f"normals: wanted [H, W, 3], found {normals.shape}")
    norm = np.linalg.norm(normals, axis=2, keepdims=True)
    is_valid = np.isfinite(norm) & (norm > 0)
    unit = np.where(is_valid, normals, 0) / np.where(is_valid, norm, 1)
    code = np.rint((unit + 1) * 127.5)
    return _png(np.where(is_valid, code, 0).astype(np.uint8))


def decode_normals(data: bytes) -> Float32:
    """Decode 8-bit normals: n = 2v / 255 - 1, scaled to unit length.

    (0, 0, 0) is invalid, and so is any code of a vector shorter than 0.5, such as the mid-grey
    that some data sets use for "unknown".

    Args:
        data: A PNG file, 8-bit RGB.

    Returns:
        float32 [H, W, 3], unit vectors, all-zero where invalid. The angle to what was encoded is
        below 0.4 degrees.

    Raises:
        SampleError: ``too_large``, ``decode_failed``, or ``label_format`` if not 8-bit RGB.
    """
    code = _label_array(data, modes=("RGB",), what="normals")
    vectors = code.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    norm = np.linalg.norm(vectors, axis=2, keepdims=True)
    is_valid = code.any(axis=2, keepdims=True) & (norm > _LEAST_NORM)
    return np.where(is_valid, vectors / np.maximum(norm, _LEAST_NORM), 0).astype(np.float32)


def encode_depth_png(depth_m: Float32) -> bytes:
    """Encode depth as 16-bit millimetres, 0 where invalid.

    What is not finite, not positive or beyond :data:`MAX_DEPTH_M` is invalid; what is nearer than
    half a millimetre is stored as one.

    Args:
        depth_m: float32 [H, W], metres.

    Raises:
        ValueError: On another shape.
    """
    if depth_m.ndim != 2:
        raise ValueError(f"depth: wanted [H, W], found {depth_m.shape}")
    is_valid = np.isfinite(depth_m) & (depth_m > 0) & (depth_m <= MAX_DEPTH_M)
    millimetres = np.clip(np.rint(np.where(is_valid, depth_m, 0) * 1000.0), 1, 65535)
    return _png(np.where(is_valid, millimetres, 0).astype(np.uint16))


def decode_depth(data: bytes) -> Float32:
    """Decode 16-bit millimetres.

    Args:
        data: A PNG file, 16-bit grey.

    Returns:
        float32 [H, W], metres, 0 where invalid.

    Raises:
        SampleError: ``too_large``, ``decode_failed``, or ``label_format`` if not 16-bit grey.
    """
    code = _label_array(data, modes=("I;16", "I;16B", "I"), what="depth")
    return (code / np.float32(1000)).astype(np.float32)


def encode_semseg_png(semseg: UInt8) -> bytes:
    """Encode class ids as 8-bit grey.

    Args:
        semseg: uint8 [H, W], 255 = ignore.

    Raises:
        ValueError: On another shape or type.
    """
    if semseg.dtype != np.uint8 or semseg.ndim != 2:
        raise ValueError(f"semseg: wanted uint8 [H, W], found {semseg.dtype} {semseg.shape}")
    return _png(semseg)


def decode_semseg(data: bytes) -> UInt8:
    """Decode class ids; of a palette image the indices, not the colours.

    Args:
        data: A PNG file, 8-bit grey or palette.

    Returns:
        uint8 [H, W].

    Raises:
        SampleError: ``too_large``, ``decode_failed``, or ``label_format`` if of another kind.
    """
    return _label_array(data, modes=("L", "P"), what="semseg").astype(np.uint8)


def encode_confidence_png(confidence: Float32, *, task: Task) -> bytes:
    """Encode confidence as 8-bit grey.

    Args:
        confidence: float32 [H, W]. ``normals``: expected angular error in degrees, kept to whole
            degrees in 0..180; other tasks: probability in [0, 1], kept in steps of 1/255. What is
            not finite becomes the least sure value.
        task: Which task it belongs to.

    Raises:
        ValueError: On another shape.
    """
    if confidence.ndim != 2:
        raise ValueError(f"{task} confidence: wanted [H, W], found {confidence.shape}")
    scale, top, unsure = _CONFIDENCE_CODES[task]
    values = np.where(np.isfinite(confidence), confidence, unsure) * scale
    return _png(np.clip(np.rint(values), 0, top).astype(np.uint8))


def decode_confidence(data: bytes, *, task: Task) -> Float32:
    """Decode confidence.

    Args:
        data: A PNG file, 8-bit grey.
        task: Which task it belongs to.

    Returns:
        float32 [H, W], degrees for ``normals``, else probability.

    Raises:
        SampleError: ``too_large``, ``decode_failed``, or ``label_format`` if not 8-bit grey.
    """
    scale, _, _ = _CONFIDENCE_CODES[task]
    code = _label_array(data, modes=("L",), what=f"{task} confidence")
    return (code / np.float32(scale)).astype(np.float32)


_LABEL_ENCODERS: dict[Task, Callable[[NDArray[Any]], bytes]] = {
    "normals": encode_normals_png,
    "depth": encode_depth_png,
    "semseg": encode_semseg_png,
}
_LABEL_DECODERS: dict[Task, Callable[[bytes], NDArray[Any]]] = {
    "normals": decode_normals,
    "depth": decode_depth,
    "semseg": decode_semseg,
}
# Task to (code per unit, greatest code, value that stands for "not sure at all").
_CONFIDENCE_CODES: dict[Task, tuple[float, int, float]] = {
    "normals": (1.0, 180, 180.0),
    "depth": (255.0, 255, 0.0),
    "semseg": (255.0, 255, 0.0),
}


def _png(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(
        buffer, format="PNG", compress_level=_COMPRESS_LEVEL
    )
    return buffer.getvalue()


def _label_array(data: bytes, *, modes: tuple[str, ...], what: str) -> NDArray[Any]:
    picture = _open(data, formats=("PNG",), max_pixels=MAX_PIXELS, convert=_as_it_is)
    if picture.mode not in modes:
        raise SampleError(
            "label_format", f"{what}: wanted a PNG of mode {modes[0]}, found {picture.mode}"
        )
    return np.array(picture)


def _open(
    data: bytes,
    *,
    formats: tuple[str, ...],
    max_pixels: int,
    convert: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
        width, height = picture.size
        if width * height > max_pixels:
            raise SampleError(
                "too_large", f"{width} x {height} pixels: wanted at most {max_pixels}; scale it"
            )
        return convert(picture)
    except Image.DecompressionBombError as error:
        raise SampleError("too_large", str(error)) from error
    except _DECODE_ERRORS as error:
        raise SampleError(
            "decode_failed", f"wanted {' or '.join(formats)}, {len(data)} bytes: {error}"
        ) from error


def _as_it_is(picture: Image.Image) -> Image.Image:
    picture.load()
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode == "RGB":
        return upright
    if upright.mode.startswith("I"):
        # PIL would clip 16-bit grey at 255.
        return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)).convert("RGB")
    return upright.convert("RGB")


def _expect_size(array: NDArray[Any], size: tuple[int, ...], what: str) -> None:
    if array.shape[:2] != size:
        raise ValueError(f"{what}: wanted the image's size {size}, found {array.shape[:2]}")


def _encode_json(sample: Sample) -> bytes:
    taken = [name for name in _OWN_JSON_FIELDS if name in sample.meta]
    if taken:
        raise ValueError(f"meta of {sample.key}: {taken} are fields of the sample; rename them")
    document = {
        **sample.meta,
        "key": sample.key,
        "caption": sample.caption,
        "is_synthetic": sample.is_synthetic,
    }
    try:
        return json.dumps(document, sort_keys=True, allow_nan=False).encode()
    except TypeError as error:
        raise ValueError(f"meta of {sample.key}: {error}; give plain JSON values") from error


def _decode_json(key: str, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise SampleError("json_invalid", f"{key}: {error}") from error
    if not isinstance(document, dict):
        raise SampleError("json_invalid", f"{key}: wanted an object, found {document!r:.40}")
    return document
