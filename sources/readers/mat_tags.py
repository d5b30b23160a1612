"""Check that the parts of a MATLAB file fit into each other, before scipy reads it.

scipy trusts the file: a wrong type of an element, such as a damaged disk leaves, ends the process.
Format: MATLAB's "MAT-File Format", level 5.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER_BYTES = 128
_MAX_BYTES = 2**30
_MAX_DEPTH = 16

_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13})
_TEXTS = frozenset({1, 2, 3, 4, 16, 17, 18})
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC_CLASSES = range(6, 16)


@dataclass(frozen=True, slots=True)
class _Element:
    kind: int
    data: memoryview


def check_tags(content: bytes) -> None:
    """Check all elements of a file of level 5.

    Raises:
        ValueError: If it is no such file, is cut off, or an element is not what has to be there.
    """
    if len(content) < _HEADER_BYTES or content[126:128] not in (b"IM", b"MI"):
        raise ValueError(f"wanted a MATLAB file up to v7, found {len(content)} other bytes")
    order = "<" if content[126:128] == b"IM" else ">"
    for element in _elements(memoryview(content)[_HEADER_BYTES:], order):
        if element.kind == _COMPRESSED:
            inner = list(_elements(memoryview(_inflate(element.data)), order))
        else:
            inner = [element]
        for one in inner:
            _expect(one.kind == _MATRIX, f"an array, found an element of type {one.kind}")
            _check_matrix(one.data, order, depth=0)


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    position = 0
    while position < len(data):
        _expect(position + 8 <= len(data), "a whole element, found the end")
        (word,) = struct.unpack_from(f"{order}I", data, position)
        if word >> 16:
            size, kind, start, step = word >> 16, word & 0xFFFF, position + 4, 8
            _expect(size <= 4, f"a small element of at most 4 bytes, found {size}")
        else:
            (size,) = struct.unpack_from(f"{order}I", data, position + 4)
            kind, start = word, position + 8
            step = 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        _expect(start + size <= len(data), f"{size} bytes, found the end after {len(data) - start}")
        yield _Element(kind, data[start : start + size])
        position += step


def _inflate(data: memoryview) -> bytes:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, _MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"a compressed part is damaged ({error})") from error
    _expect(inflater.eof, "a whole compressed part, found its end missing")
    return content


def _check_matrix(data: memoryview, order: str, *, depth: int) -> None:
    _expect(depth < _MAX_DEPTH, f"at most {_MAX_DEPTH} arrays within each other, found more")
    if not data:
        return
    parts = list(_elements(data, order))
    _expect([part.kind for part in parts[:3]] == [_UINT32, _INT32, _INT8], "an array's head")
    flags, dims, *rest = parts
    is_whole = len(flags.data) == 8 and len(dims.data) >= 8 and len(dims.data) % 4 == 0
    _expect(is_whole, "an array's flags and size")
    (flag_bits,) = struct.unpack_from(f"{order}I", flags.data)
    shape = struct.unpack(f"{order}{len(dims.data) // 4}i", dims.data)
    _expect(min(shape) >= 0, f"a size, found {shape}")
    _check_body(flag_bits, shape, rest[1:], order, depth=depth)


def _check_body(
    flag_bits: int, shape: tuple[int, ...], body: list[_Element], order: str, *, depth: int
) -> None:
    class_, is_complex = flag_bits & 0xFF, bool(flag_bits & 0x800)
    kinds = [part.kind for part in body]
    count = 1
    for length in shape:
        count *= length
    if class_ in _NUMERIC_CLASSES:
        _expect(not is_complex and len(body) == 1, "one block of real numbers")
        _expect(kinds[0] in _NUMBERS, f"numbers, found type {kinds[0]}")
        _expect(count <= len(body[0].data), f"{count} numbers, found {len(body[0].data)} bytes")
    elif class_ == _CHAR:
        _expect(len(body) == 1 and kinds[0] in _TEXTS, f"text, found types {kinds}")
    elif class_ in (_CELL, _STRUCT):
        head = 2 if class_ == _STRUCT else 0
        _expect(kinds[:head] == [_INT32, _INT8][:head], "the names of fields")
        fields = _num_fields(body, order) if head else 1
        _expect(len(body) - head == count * fields, f"{count * fields} parts, found {len(body)}")
        for part in body[head:]:
            _expect(part.kind == _MATRIX, f"an array, found type {part.kind}")
            _check_matrix(part.data, order, depth=depth + 1)
    else:
        raise ValueError(f"wanted numbers, texts, cells or structs, found class {class_}")


def _num_fields(body: list[_Element], order: str) -> int:
    _expect(len(body[0].data) == 4, "the length of the names of fields")
    (length,) = struct.unpack(f"{order}i", body[0].data)
    _expect(0 < length <= 64, f"names of 1 to 64 bytes, found {length}")
    return len(body[1].data) // length


def _expect(is_so: bool, wanted: str) -> None:  # noqa: FBT001 - an assertion's only argument
    if not is_so:
        raise ValueError(f"wanted {wanted}")
