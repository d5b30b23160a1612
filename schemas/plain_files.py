"""Files that strangers made: only plain files are opened, as a pipe or a device may never end."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_WORDS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "Permission denied; let this user read it (chmod u+r)",
    errno.EPERM: "Permission denied; let this user read it (chmod u+r)",
    errno.ELOOP: "links lead in a circle; correct the link",
    errno.ENAMETOOLONG: "the name is longer than the file system takes; shorten it",
}


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read it.

    Raises:
        OSError: If it cannot be opened, or is no plain file; ``strerror`` says what it is.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((words for is_one, words in _KINDS if is_one(mode)), "no plain file")
        raise OSError(errno.EINVAL, f"wanted a file, found {kind}", str(path))
    # A pipe that took the file's place meanwhile would otherwise be waited for.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")


def read_plain(path: Path) -> bytes:
    """Read a file whole.

    Raises:
        OSError: As :func:`open_plain`.
    """
    with open_plain(path) as file:
        return file.read()


def why_not(error: OSError | ValueError) -> str:
    """Say in words why a file could not be opened or read, and what to do if that is known."""
    if not isinstance(error, OSError):
        return "a name cannot hold the sign U+0000; correct it"
    return _WORDS.get(error.errno or 0) or error.strerror or str(error)
