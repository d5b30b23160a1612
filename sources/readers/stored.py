"""Values as a file stores them, whatever they may mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError
from schemas.plain_files import read_plain, why_not
from schemas.recognise import picture_format
from sources.readers.numbers import MAX_NUMBER_BYTES, is_numbers, read_numbers
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
    def is_grey(self) -> bool:
        """Whether one channel says all."""
        if self.values.ndim == 2:
            return True
        return bool((self.values[..., 1:3] == self.values[..., :1]).all())

    @property
    def plane(self) -> NDArray[Any]:
        """The first channel."""
        return self.values if self.values.ndim == 2 else self.values[..., 0]

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
    if is_numbers(data):
        values = read_numbers(data, what=path.name, num_channels=num_channels)
        if values.ndim not in (2, 3) or values.dtype.kind not in "fiub":
            found = f"{values.dtype} {values.shape}"
            raise SampleError("label_format", f"wanted numbers [H, W], found {found}")
        return Stored(values=_channels_last(values), mode="")
    values, mode = read_stored(data, formats=PICTURE_FORMATS, what=path.name)
    return Stored(values=values, mode=mode, is_lossy=picture_format(data) in _LOSSY)


def _channels_last(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3):
        values = np.moveaxis(values, 0, 2)
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
