"""Shards: pack samples into a tar with a stable digest, and read tars back.

Tars are read strictly: ``tarfile`` follows links within an archive, expands sparse members to any
size and, in older Pythons, loops for ever on a size below zero; of it only the parser of single
headers is used here. Format: POSIX ustar with pax headers, and GNU's long names.
"""

from __future__ import annotations

import importlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from schemas.digest import sha256_of
from schemas.errors import DamagedShardError
from schemas.sample import JSON_MEMBER, MEMBER_ORDER
from storage.files.stores import streaming_filesystem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from storage.files.stores import RunStore

WEBDATASET_SCHEMES = ("memory", "s3", "s3a", "gs", "gcs", "abfs", "az")

_RANK = {member: rank for rank, member in enumerate(MEMBER_ORDER)}
_BLOCK = tarfile.BLOCKSIZE
_EMPTY = bytes(_BLOCK)
END_OF_ARCHIVE = bytes(2 * _BLOCK)
_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})
_GNU_NAME, _PAX, _PAX_GLOBAL = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE
_MOST_DIGITS = 18
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PackedTar:
    """A tar in memory.

    Attributes:
        data: Its bytes.
        sha256: Their digest, 64 hexadecimal digits.
        offsets: Key to (offset, size) in bytes of the key's members, headers included; the same
            range read on its own is a tar of that key.
    """

    data: bytes
    sha256: str
    offsets: dict[str, tuple[int, int]]


def pack_tar(samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> PackedTar:
    """Pack samples, in the order given, into a tar.

    The same samples give the same bytes: no times, no owners; the members of a key lie together,
    in the order of ``MEMBER_ORDER``, others by name before the json, which is last.

    Args:
        samples: Pairs of key and members (name such as ``image.png`` to content).

    Raises:
        ValueError: If a key is empty, holds a dot or a slash, or comes twice; if a member's name
            is empty or holds a slash.
    """
    buffer = io.BytesIO()
    offsets: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for key, members in samples:
            _check_key(key, offsets)
            start = buffer.tell()
            for member in sorted(members, key=_member_rank):
                _add_member(archive, f"{key}.{member}", members[member])
            offsets[key] = (start, buffer.tell() - start)
    data = buffer.getvalue()
    return PackedTar(data, sha256_of(data), offsets)


def read_tar(data: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Read a whole tar, key by key, in its order.

    Yields:
        Key (everything before the first dot of the file name) and members.

    Raises:
        DamagedShardError: If the tar is torn or malformed, has no end mark, holds other than plain
            files under plain names, or if the members of a key do not lie together.
    """
    if not data.endswith(END_OF_ARCHIVE):
        raise DamagedShardError(
            f"tar of {len(data)} bytes: wanted zeros as end mark, found none, so it is cut off; "
            "fetch or write it again"
        )
    yield from _grouped(plain_files(data))


def read_member_range(
    store: RunStore, tar: str, *, offset: int, size: int
) -> tuple[str, dict[str, bytes]]:
    """Read one key out of a tar without reading the rest.

    Args:
        tar: Path within the run directory, or a URL.
        offset: First byte of the key's members, as :class:`PackedTar` gives it.

    Returns:
        Key and members.

    Raises:
        DamagedShardError: If the range is not exactly one key.
        FileNotFoundError: If there is no such tar.
    """
    data = store.read_bytes(tar, start=offset, end=offset + size)
    found = list(_grouped(plain_files(data)))
    if len(data) != size or len(found) != 1:
        raise DamagedShardError(
            f"{store.uri(tar)}: wanted one key in bytes {offset} to {offset + size}, found "
            f"{len(found)} in {len(data)} bytes; take offset and size from the unit's manifest"
        )
    return found[0]


def load_shard(store: RunStore, tar: str, expected_sha256: str) -> bytes:
    """Read a shard and check its digest.

    Args:
        tar: Path within the run directory, or a URL.
        expected_sha256: ``tar_sha256`` of the unit's manifest.

    Raises:
        DamagedShardError: If the shard is missing or its digest differs.
    """
    remedy = (
        "leave the unit out, or delete its manifest under manifest/units so that it is made again"
    )
    try:
        data = store.read_bytes(tar)
    except FileNotFoundError as error:
        raise DamagedShardError(
            f"{store.uri(tar)}: wanted a committed shard, found none; {remedy}"
        ) from error
    found = sha256_of(data)
    if found != expected_sha256:
        raise DamagedShardError(
            f"{store.uri(tar)}: wanted sha256 {expected_sha256}, found {found} over {len(data)} "
            f"bytes; {remedy}"
        )
    return data


def register_webdataset_openers() -> None:
    """Let webdataset open the URLs that :meth:`RunStore.uri` makes, in this process.

    webdataset itself has no opener for ``s3://`` and calls a command-line tool for ``gs://``.
    """
    # ``from webdataset import gopen`` would give the function of that name, not the module.
    schemes = importlib.import_module("webdataset.gopen").gopen_schemes
    for scheme in WEBDATASET_SCHEMES:
        schemes[scheme] = _open_for_webdataset


def _open_for_webdataset(url: str, mode: str = "rb", bufsize: int = 8192) -> Any:
    del bufsize  # part of webdataset's protocol; fsspec chooses its own blocks
    if mode != "rb":
        raise ValueError(f"{url}: wanted mode 'rb', found {mode!r}; shards are written by storage")
    fs, path = streaming_filesystem(url)
    return fs.open(path, "rb")


def _check_key(key: str, taken: Mapping[str, object]) -> None:
    if not key or any(sign in key for sign in "./\\"):
        raise ValueError(f"key {key!r}: wanted a name without dots and slashes; rename the sample")
    if key in taken:
        raise ValueError(f"key {key!r}: comes twice; keys are unique within a shard")


def _member_rank(member: str) -> tuple[int, str]:
    if not member or "/" in member:
        raise ValueError(f"member {member!r}: wanted a name such as image.png")
    if member == JSON_MEMBER:
        return len(_RANK) + 1, member
    return _RANK.get(member, len(_RANK)), member


def _add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # A fresh TarInfo has mode 0644, time, user and group 0 and no names.
    header = tarfile.TarInfo(name)
    header.size = len(content)
    archive.addfile(header, io.BytesIO(content))


def _grouped(files: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, dict[str, bytes]]]:
    current, members = "", dict[str, bytes]()
    done: set[str] = set()
    for name, content in files:
        folder, slash, base = name.rpartition("/")
        stem, _, member = base.partition(".")
        key = f"{folder}{slash}{stem}".removeprefix("./")
        if key != current and members:
            yield current, members
            done.add(current)
            members = {}
        if key in done or member in members:
            raise DamagedShardError(
                f"key {key!r}: wanted its members together and each once, found {name!r} again; "
                "write the tar with the members of a key next to each other"
            )
        current = key
        members[member] = content
    if members:
        yield current, members


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
            "pipes and sparse files are refused; write the tar again with plain copies"
        )
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DamagedShardError(
            f"tar: wanted names below its own folder, found {shown}: absolute ones and '..' are "
            "refused; write the tar again with plain names"
        )


def _torn(data: bytes, found: str) -> str:
    return f"tar of {len(data)} bytes: found {found}; fetch or write it again"
