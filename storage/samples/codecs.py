"""Samples as bytes: images and labels as PNG members, everything else as one JSON member.

Arrays are as ``schemas.sample`` describes them; H and W are the image's. All decoders raise
SampleError, with a reason to count by: ``too_large``; ``decode_failed`` if damaged or no picture;
``label_format`` if it is a PNG of another kind than the task's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError
from schemas.sample import (
    CREATOR_MEMBERS,
    IGNORE_PROBABILITY,
    IMAGE_MEMBER,
    JSON_MEMBER,
    LABEL_MEMBERS,
    RELIABILITY_MEASURES,
    RELIABILITY_MEMBERS,
    TASK_KINDS,
    TASKS,
    Sample,
    Task,
    TaskKind,
)
from storage.samples.members import MAX_PIXELS, decode_json, read_label_png, read_rgb, write_png

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    UInt8 = NDArray[np.uint8]
    Float32 = NDArray[np.float32]

MAX_DEPTH_M = 65.535
"""Greatest depth that 16 bits of millimetres hold; what is farther is stored as invalid."""

_OWN_JSON_FIELDS = ("key", "caption", "is_synthetic")
_LEAST_NORM = 0.5
_PROBABILITY_STEPS = 254
_IGNORED_PROBABILITY_CODE = 255


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
        members[LABEL_MEMBERS[task]] = encode_label(label, task)
    for task, reliability in sample.reliability.items():
        _expect_size(reliability, size, f"{task} reliability")
        members[RELIABILITY_MEMBERS[task]] = encode_reliability_png(reliability, task=task)
    members |= encode_creator_maps(sample.creator_maps, size)
    members[JSON_MEMBER] = _encode_json(sample)
    return members


def encode_creator_maps(
    maps: Mapping[Task, NDArray[Any]], size: tuple[int, ...]
) -> dict[str, bytes]:
    """Encode the maps that a creator made with an image as members of a tar.

    Args:
        size: Height and width of the image.

    Raises:
        ValueError: If shape or type of one are not those of its task's labels.
    """
    for task, each in maps.items():
        _expect_size(each, size, f"the creator's {task}")
    return {CREATOR_MEMBERS[task]: encode_label(each, task) for task, each in maps.items()}


def decode_creator_maps(members: Mapping[str, bytes]) -> dict[Task, NDArray[Any]]:
    """Decode the maps that a creator made with an image; empty if it made none."""
    names = {task: name for task, name in CREATOR_MEMBERS.items() if name in members}
    return {task: decode_label(members[name], task) for task, name in names.items()}


def decode_sample(
    key: str,
    members: Mapping[str, bytes],
    *,
    with_reliability: bool = True,
    with_creator_maps: bool = True,
) -> Sample:
    """Decode the members of a key; members with unknown names are left out.

    Args:
        members: Name to bytes.

    Raises:
        SampleError: ``member_missing``, ``label_size_differs``, ``json_invalid``, or as the
            decoders of the members say.
    """
    if IMAGE_MEMBER not in members:
        raise SampleError("member_missing", f"{key}: wanted {IMAGE_MEMBER}, found {list(members)}")
    image = decode_image(members[IMAGE_MEMBER])
    labels: dict[Task, NDArray[Any]] = {}
    reliability: dict[Task, NDArray[Any]] = {}
    for task in TASKS:
        if (data := members.get(LABEL_MEMBERS[task])) is not None:
            labels[task] = decode_label(data, task)
        data = members.get(RELIABILITY_MEMBERS[task]) if with_reliability else None
        if data is not None:
            reliability[task] = decode_reliability(data, task=task)
    creator_maps = decode_creator_maps(members) if with_creator_maps else {}
    for array in (*labels.values(), *reliability.values(), *creator_maps.values()):
        if array.shape[:2] != image.shape[:2]:
            raise SampleError(
                "label_size_differs",
                f"{key}: image is {image.shape[:2]}, a label is {array.shape[:2]} (height, width)",
            )
    meta = decode_json(key, members.get(JSON_MEMBER, b"{}"))
    return Sample(
        key=key,
        image=image,
        labels=labels,
        reliability=reliability,
        creator_maps=creator_maps,
        caption=str(meta.pop("caption", "")),
        is_synthetic=bool(meta.pop("is_synthetic", False)),
        meta={name: value for name, value in meta.items() if name != "key"},
    )


def encode_label(label: NDArray[Any], task: Task) -> bytes:
    """Encode a label map as the PNG of its task's kind.

    Raises:
        ValueError: If shape or type are not those of the task.
    """
    encode = _LABEL_ENCODERS[TASK_KINDS[task]]
    return encode(label, what=task)


def decode_label(data: bytes, task: Task) -> NDArray[Any]:
    """Decode the PNG of a label map."""
    decode = _LABEL_DECODERS[TASK_KINDS[task]]
    return decode(data, what=task)


def encode_image_png(image: UInt8) -> bytes:
    """Encode an image, uint8 RGB [H, W, 3].

    Raises:
        ValueError: On another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: wanted uint8 [H, W, 3], found {image.dtype} {image.shape}")
    return write_png(image)


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Decode a photograph or rendering.

    The EXIF orientation is applied where it can be read; grey, palette and CMYK images become RGB;
    transparency is dropped; 16-bit channels keep their upper 8 bits; of an animation it is the
    first image. Damaged metadata never fails a picture.

    Args:
        data: A PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF file; HEIC with the extra ``heic``.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        SampleError: ``too_large``; ``decode_failed`` if damaged or of another format; the
            detail says what it is instead.
    """
    return read_rgb(data, max_pixels=max_pixels)


def encode_normals_png(normals: Float32, *, what: str = "normals") -> bytes:
    """Encode normals, float32 [H, W, 3] in the camera frame, as 8-bit RGB.

    v = round((n + 1) · 127.5), and (0, 0, 0) where invalid.

    Vectors are scaled to unit length first; a zero or not finite one is invalid. A unit vector
    never becomes (0, 0, 0): its components cannot all be below -1/√3.

    Raises:
        ValueError: On another shape.
    """
    if normals.ndim != 3 or normals.shape[2] != 3:
        raise ValueError(f"{what}: wanted [H, W, 3], found {normals.shape}")
    norm = np.linalg.norm(normals, axis=2, keepdims=True)
    is_valid = np.isfinite(norm) & (norm > 0)
    unit = np.where(is_valid, normals, 0) / np.where(is_valid, norm, 1)
    code = np.rint((unit + 1) * 127.5)
    return write_png(np.where(is_valid, code, 0).astype(np.uint8))


def decode_normals(data: bytes, *, what: str = "normals") -> Float32:
    """Decode 8-bit normals: n = 2v / 255 - 1, scaled to unit length.

    (0, 0, 0) is invalid, and so is any code of a vector shorter than 0.5, such as the mid-grey
    that some data sets use for "unknown".

    Returns:
        float32 [H, W, 3], unit vectors, all-zero where invalid. The angle to what was encoded is
        below 0.4 degrees.
    """
    return normals_of_codes(read_label_png(data, modes=("RGB",), what=what))


def normals_of_codes(code: NDArray[Any]) -> Float32:
    """Normals of 8-bit codes [H, W, 3], as :func:`decode_normals` says."""
    vectors = code.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    norm = np.linalg.norm(vectors, axis=2, keepdims=True)
    is_valid = code.any(axis=2, keepdims=True) & (norm > _LEAST_NORM)
    return np.where(is_valid, vectors / np.maximum(norm, _LEAST_NORM), 0).astype(np.float32)


def encode_depth_png(depth_m: Float32, *, what: str = "depth") -> bytes:
    """Encode depth, float32 [H, W] in metres, as 16-bit millimetres, 0 where invalid.

    What is not finite, not positive or beyond :data:`MAX_DEPTH_M` is invalid; what is nearer than
    half a millimetre is stored as one.

    Raises:
        ValueError: On another shape.
    """
    if depth_m.ndim != 2:
        raise ValueError(f"{what}: wanted [H, W], found {depth_m.shape}")
    is_valid = np.isfinite(depth_m) & (depth_m > 0) & (depth_m <= MAX_DEPTH_M)
    millimetres = np.clip(np.rint(np.where(is_valid, depth_m, 0) * 1000.0), 1, 65535)
    return write_png(np.where(is_valid, millimetres, 0).astype(np.uint16))


def decode_depth(data: bytes, *, what: str = "depth") -> Float32:
    """Decode 16-bit millimetres to float32 [H, W] in metres, 0 where invalid."""
    code = read_label_png(data, modes=("I;16", "I;16B", "I"), what=what)
    return (code / np.float32(1000)).astype(np.float32)


def encode_class_ids_png(ids: UInt8, *, what: str = "class ids") -> bytes:
    """Encode class ids, uint8 [H, W], 255 = ignore, as 8-bit grey.

    Raises:
        ValueError: On another shape or type.
    """
    if ids.dtype != np.uint8 or ids.ndim != 2:
        raise ValueError(f"{what}: wanted uint8 [H, W], found {ids.dtype} {ids.shape}")
    return write_png(ids)


def decode_class_ids(data: bytes, *, what: str = "class ids") -> UInt8:
    """Decode class ids to uint8 [H, W]; of a palette image the indices, not the colours."""
    return read_label_png(data, modes=("L", "P"), what=what).astype(np.uint8)


def encode_probability_png(probability: Float32, *, what: str = "probability") -> bytes:
    """Encode probabilities, float32 [H, W] in [0, 1], -1 = ignore, as 8-bit grey.

    v = round(254 p), and 255 where ignored. What is negative or not finite is ignored; what is
    above 1 is stored as 1.

    Raises:
        ValueError: On another shape or type.
    """
    if not np.issubdtype(probability.dtype, np.floating) or probability.ndim != 2:
        found = f"{probability.dtype} {probability.shape}"
        raise ValueError(f"{what}: wanted float32 [H, W], found {found}")
    is_valid = np.isfinite(probability) & (probability >= 0)
    code = np.rint(np.clip(np.where(is_valid, probability, 0), 0, 1) * _PROBABILITY_STEPS)
    return write_png(np.where(is_valid, code, _IGNORED_PROBABILITY_CODE).astype(np.uint8))


def decode_probability(data: bytes, *, what: str = "probability") -> Float32:
    """Decode 8-bit probabilities, p = v / 254, to float32 [H, W] in [0, 1], -1 where ignored.

    The error is at most 1/508.
    """
    code = read_label_png(data, modes=("L",), what=what)
    probability = code.astype(np.float32) / np.float32(_PROBABILITY_STEPS)
    is_ignored = code == _IGNORED_PROBABILITY_CODE
    return np.where(is_ignored, np.float32(IGNORE_PROBABILITY), probability).astype(np.float32)


def encode_reliability_png(reliability: Float32, *, task: Task) -> bytes:
    """Encode reliability as 8-bit grey.

    Args:
        reliability: float32 [H, W]. ``normals``: expected angular error in degrees, kept to whole
            degrees in 0..180; other tasks: probability in [0, 1], kept in steps of 1/255. What is
            not finite becomes the least sure value.

    Raises:
        ValueError: On another shape.
    """
    if reliability.ndim != 2:
        raise ValueError(f"{task} reliability: wanted [H, W], found {reliability.shape}")
    scale, top, unsure = _reliability_code(task)
    values = np.where(np.isfinite(reliability), reliability, unsure) * scale
    return write_png(np.clip(np.rint(values), 0, top).astype(np.uint8))


def decode_reliability(data: bytes, *, task: Task) -> Float32:
    """Decode reliability to float32 [H, W]: degrees for ``normals``, else probability."""
    scale, _, _ = _reliability_code(task)
    code = read_label_png(data, modes=("L",), what=f"{task} reliability")
    return (code / np.float32(scale)).astype(np.float32)


_LABEL_ENCODERS: dict[TaskKind, Callable[..., bytes]] = {
    "direction": encode_normals_png,
    "distance": encode_depth_png,
    "classes": encode_class_ids_png,
    "probability": encode_probability_png,
}
_LABEL_DECODERS: dict[TaskKind, Callable[..., NDArray[Any]]] = {
    "direction": decode_normals,
    "distance": decode_depth,
    "classes": decode_class_ids,
    "probability": decode_probability,
}


def _reliability_code(task: Task) -> tuple[float, int, float]:
    """Code per unit, greatest code, and the value for "not sure at all"."""
    is_error = RELIABILITY_MEASURES[task] == "expected_error_deg"
    return (1.0, 180, 180.0) if is_error else (255.0, 255, 0.0)


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
