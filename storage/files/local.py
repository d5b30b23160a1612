"""Whole files in a local folder: created once or replaced, with all their bytes or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from typing import TYPE_CHECKING

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_SPACE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota used up",
    errno.EFBIG: "a limit on the size of files",
}
_MB = 10**6


def create_local(path: Path, data: bytes) -> None:
    """Write a file if its name is free.

    Raises:
        FileExistsError: If it is not.
        ConfigError: If the file system has no hard links.
        OSError: If it cannot be written; nothing of it stays.
    """
    # A hard link fails if the name is taken, and the name appears with all its bytes on disk.
    temporary = _write_temporary(path, data)
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        _expect_space(error, path, data)
        if error.errno not in _NO_LINKS:
            raise
        raise ConfigError(
            f"{path.parent}: commits need hard links, which this file system lacks ({error}); put "
            "the run on another disk or on an object store"
        ) from error
    finally:
        temporary.unlink()
    _sync_folder(path.parent)


def replace_local(path: Path, data: bytes) -> None:
    """Write a file, whatever is there.

    Raises:
        OSError: If it cannot be written; what was there stays.
    """
    temporary = _write_temporary(path, data)
    try:
        temporary.replace(path)
    except OSError as error:
        temporary.unlink()
        _expect_space(error, path, data)
        raise
    _sync_folder(path.parent)


def _write_temporary(path: Path, data: bytes) -> Path:
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # The folder may be a file, so that not even the temporary name can be asked for.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        _expect_space(error, path, data)
        raise
    return temporary


def _expect_space(error: OSError, path: Path, data: bytes) -> None:
    """Return unless an error means that there is no room for the bytes.

    Raises:
        OSError: If so; it names the disk and what to do.
    """
    if error.errno not in _NO_SPACE:
        return
    disk = next(each for each in (path, *path.parents) if each.is_dir())
    mount = next(each for each in (disk, *disk.parents) if each.is_mount())
    usage = shutil.disk_usage(disk)
    raise OSError(
        error.errno,
        f"{path}: wanted to write {len(data)} bytes, found {_NO_SPACE[error.errno]} on the disk "
        f"mounted at {mount} ({usage.free / _MB:.1f} of {usage.total / _MB:.1f} MB free); make "
        "space there (jobs/gc.py RUN lists what may go), then the same command resumes",
    ) from error


def _sync_folder(folder: Path) -> None:
    # Some network file systems refuse to sync a folder; the file itself is synced already.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
