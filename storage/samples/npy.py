"""NumPy files of unknown origin: plain numbers, or a SampleError before anything is allocated."""

from __future__ import annotations

import io
import math
import tokenize
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def decode_npy(data: bytes, *, what: str) -> NDArray[Any]:
    """Decode a file that ``numpy.save`` wrote; objects are refused, nothing is ever unpickled.

    Args:
        data: The whole file.
        what: Name for messages.

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


def npy_shape(head: bytes, *, what: str) -> tuple[int, ...]:
    """Shape that the header of a NumPy file states; nothing else is looked at.

    Args:
        head: The first bytes of the file, header included.
        what: Name for messages.

    Raises:
        SampleError: ``decode_failed`` if it is no such header.
    """
    return _read_header(io.BytesIO(head), what)[0]


def _read_header(stream: io.BytesIO, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        return _HEADER_READERS[version](stream)
    except _HEADER_ERRORS as error:
        raise SampleError(
            "decode_failed", f"{what}: wanted a NumPy file: {str(error)[:200]}; save it again"
        ) from error
