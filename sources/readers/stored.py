"""Values as a file stores them, whatever they may mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError
from schemas.plain_files import read_plain, why_not
from schemas.recognise import picture_format
from sources.readers.numbers import MAX_NUMBER_BYTES, NUMBER_FORMATS, is_numbers, read_numbers
from storage.samples.members import PICTURE_FORMATS, mode_words, read_stored

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_LOSSY = ("JPEG", "WEBP", "AVIF", "HEIC")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What a file holds.

    Attributes:
        values: [H, W], or [H, W, channels].
        mode: PIL's name of the pixel format; "" of numbers.
        is_lossy: Whether its format changes values a little.
    """

    values: NDArray[Any]
    mode: str
    is_lossy: bool = False

    @property
    def is_numbers(self) -> bool:
        """Whether it is no picture."""
        return not self.mode

    @property
    def is_plane(self) -> bool:
        """Whether it has one channel."""
        return self.values.ndim == 2

    @property
    def is_grey(self) -> bool:
        """Whether one channel says all: perhaps stored as colours or with transparency."""
        if self.is_plane or self.mode == "LA":
            return True
        is_colour = self.mode in ("RGB", "RGBA")
        return is_colour and bool((self.values[..., 1:3] == self.values[..., :1]).all())

    @property
    def plane(self) -> NDArray[Any]:
        """The first channel."""
        return self.values if self.is_plane else self.values[..., 0]

    @property
    def words(self) -> str:
        """What people call it."""
        return mode_words(self.mode) if self.mode else f"{self.values.dtype} numbers"


def read_stored_file(path: Path, *, num_channels: int = 1) -> Stored:
    """Read a picture, a NumPy file or an OpenEXR.

    Args:
        num_channels: 1 or 3: which channels of an OpenEXR are taken.

    Raises:
        SampleError: If it cannot be read.
    """
    try:
        if path.stat().st_size > MAX_NUMBER_BYTES:
            raise SampleError("too_large", "wanted one picture's file")
        data = read_plain(path)
    except OSError as error:
        raise SampleError("decode_failed", why_not(error)) from error
    return decode_stored(data, what=path.name, num_channels=num_channels)


def decode_stored(
    data: bytes, *, what: str, formats: tuple[str, ...] = PICTURE_FORMATS, num_channels: int = 1
) -> Stored:
    """Decode a picture, a NumPy file or an OpenEXR.

    Args:
        what: Name for messages, and of the array to take if a ``.npz`` holds several.
        formats: PIL's names of the formats of pictures that are read.
        num_channels: 1 or 3: which channels of an OpenEXR are taken.

    Raises:
        SampleError: ``decode_failed``, ``too_large``; ``label_format`` if it is no map.
    """
    if not is_numbers(data):
        values, mode = read_stored(data, formats=formats, what=what, others=NUMBER_FORMATS)
        return Stored(values=values, mode=mode, is_lossy=picture_format(data) in _LOSSY)
    values = read_numbers(data, what=what, num_channels=num_channels)
    if values.ndim not in (2, 3) or values.dtype.kind not in "fiub":
        raise SampleError(
            "label_format",
            f"{what}: wanted numbers [H, W] or [H, W, 3], found {values.dtype} numbers of shape "
            f"{values.shape}; export it again",
        )
    return Stored(values=_channels_last(values), mode="")


def plane_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of numbers whose channels may be first or last."""
    if _has_channels_first(shape):
        return shape[1], shape[2]
    height, width, *_ = shape
    return height, width


def code_lengths(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Lengths of the vectors that 8-bit colours stand for: n = 2 v / 255 - 1; black is none.

    Args:
        codes: [..., 3 or more]; only the first three channels count.
    """
    vectors = codes[..., :3].reshape(-1, 3)
    vectors = vectors[vectors.any(axis=1)]
    lengths: NDArray[np.float64] = np.linalg.norm(vectors * (2 / 255) - 1, axis=1)
    return lengths


def packed_colours(rgb: NDArray[np.uint8]) -> NDArray[Any]:
    """Each pixel's red · 65536 + green · 256 + blue, as uint32."""
    channels = rgb.astype(np.uint32)
    return (channels[..., 0] << 16) | (channels[..., 1] << 8) | channels[..., 2]


def _channels_last(values: NDArray[Any]) -> NDArray[Any]:
    if _has_channels_first(values.shape):
        values = np.moveaxis(values, 0, 2)
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values


def _has_channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3)
