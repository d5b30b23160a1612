"""The plain files of a tar, read strictly: whatever else a tar can hold is refused.

``tarfile`` follows links within an archive, expands sparse members to any size and, in older
Pythons, loops for ever on a size below zero; of it only the parser of single headers is used here.
Format: POSIX ustar with pax headers, and GNU's long names.
"""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from schemas.errors import DamagedShardError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = tarfile.BLOCKSIZE
_EMPTY = bytes(_BLOCK)
_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})
_GNU_NAME, _PAX, _PAX_GLOBAL = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE
_MOST_DIGITS = 18
_MAX_HEADER_BYTES = 1 << 20


def plain_files(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an uncompressed tar, in its order; folders are passed over.

    Args:
        data: Whole members, with or without the zeros that end a tar.

    Yields:
        Name and content.

    Raises:
        DamagedShardError: If the tar is torn or malformed; if it holds a link, device, pipe or
            sparse file; if a name is absolute or climbs with ``..``.
    """
    position = 0
    extended: dict[str, str] = {}
    while (block := data[position : position + _BLOCK]) and block != _EMPTY:
        header = _header(block, data, position)
        size = _size(header, extended)
        start = position + _BLOCK
        position = start + -(-size // _BLOCK) * _BLOCK
        if size < 0 or start + size > len(data):
            raise DamagedShardError(_torn(data, f"a member of {size} bytes, beyond the end"))
        content = data[start : start + size]
        if header.type in {_PAX, _PAX_GLOBAL, _GNU_NAME}:
            if header.type != _PAX_GLOBAL:
                extended |= _extension(header.type, content, data)
            continue
        name = extended.get("path", header.name)
        sparse = any(key.startswith("GNU.sparse") for key in extended)
        extended = {}
        if header.type == tarfile.DIRTYPE:
            continue
        _expect_plain(name, header, is_sparse=sparse)
        yield name, content
    if data[position:].strip(b"\0"):
        raise DamagedShardError(
            _torn(data, f"a malformed header {len(data) - position} bytes before the end")
        )


def _header(block: bytes, data: bytes, position: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise DamagedShardError(
            _torn(data, f"a malformed header {len(data) - position} bytes before the end ({error})")
        ) from error


def _size(header: tarfile.TarInfo, extended: dict[str, str]) -> int:
    """Bytes of a member; -1 if a pax header says something else than a number."""
    text = extended.get("size", str(header.size))
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return int(text) if is_number else -1


def _extension(kind: bytes, content: bytes, data: bytes) -> dict[str, str]:
    """What a pax header or a GNU long name says of the member behind it.

    Raises:
        DamagedShardError: If it is malformed.
    """
    if len(content) > _MAX_HEADER_BYTES:
        raise DamagedShardError(_torn(data, f"a header of {len(content)} bytes"))
    if kind == _GNU_NAME:
        return {"path": content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")}
    found: dict[str, str] = {}
    while content:
        length, _, _ = content[: _MOST_DIGITS + 1].partition(b" ")
        stop = int(length) if length.isdigit() else 0
        record = content[len(length) + 1 : stop]
        if not record.endswith(b"\n") or stop > len(content):
            raise DamagedShardError(_torn(data, "a malformed pax header"))
        name, _, value = record[:-1].partition(b"=")
        found[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        content = content[stop:]
    return found


def _expect_plain(name: str, header: tarfile.TarInfo, *, is_sparse: bool) -> None:
    shown = f"{name!r:.200}"
    if header.type not in _FILES or is_sparse:
        raise DamagedShardError(
            f"tar: wanted plain files, found {shown} of type {header.type!r}: links, devices, "
            "pipes and sparse files are refused; write the tar again with what they stand for"
        )
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DamagedShardError(
            f"tar: wanted names below its own folder, found {shown}: absolute ones and '..' are "
            "refused; write the tar again with plain names"
        )


def _torn(data: bytes, found: str) -> str:
    return f"tar of {len(data)} bytes: found {found}; fetch or write it again"
