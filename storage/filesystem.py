"""A run directory on any fsspec file system: whole-object reads and writes, create-if-absent."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

from schemas.errors import AlreadyCommittedError, ConfigError

logger = logging.getLogger(__name__)

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_LOCAL = frozenset({"file", "local"})
_CONDITIONAL = frozenset({"s3", "s3a", "gs", "gcs"})
# s3fs itself turns only AWS's own answer into FileExistsError, not that of every S3 server.
_PRESENT_CODES = frozenset({"PreconditionFailed", "412"})
_BUSY_CODES = frozenset({"ConditionalRequestConflict", "409"})
_BEYOND_END_CODES = frozenset({"InvalidRange", "416"})
_BUSY_WAITS_S = (0.1, 0.5, 2.0)
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_process_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class RunStore:
    """A folder, local or remote, in which all of a run lies.

    Paths given to its methods are relative to the root and use forward slashes; those that read
    take an absolute path or a URL as well. It pickles as two texts, and finds its file system anew
    in each process.

    Attributes:
        url: An absolute local path, or the URL as given without a trailing slash.
        root: The same as the file system itself names it.
    """

    url: str
    root: str

    @property
    def fs(self) -> Any:
        """The fsspec file system; fsspec keeps one a process, so a forked worker has its own."""
        return _filesystem(self.url)[0]

    def uri(self, rel: str) -> str:
        """Absolute path (local) or URL of an object; what is absolute already stays as it is."""
        if _is_absolute(rel):
            return rel
        return f"{self.url}/{_checked(rel)}" if rel else self.url

    def read_bytes(self, rel: str, *, start: int | None = None, end: int | None = None) -> bytes:
        """Read a whole object, or its bytes from ``start`` up to ``end``; fewer if it is shorter.

        Raises:
            FileNotFoundError: If there is none.
            OSError: If the store cannot be reached.
        """
        fs, path = _filesystem(rel) if _is_absolute(rel) else (self.fs, self._path(rel))
        try:
            return bytes(fs.cat_file(path, start=start, end=end))
        except OSError as error:
            if _error_code(error) in _BEYOND_END_CODES:
                return b""
            raise

    def write_bytes(self, rel: str, data: bytes) -> None:
        """Write an object whole, replacing what is there; readers never see a part of it."""
        fs, path = self.fs, self._path(rel)
        if _is_local(fs):
            _replace_local(Path(path), data)
        else:
            fs.pipe_file(path, data)

    def put_if_absent(self, rel: str, data: bytes) -> None:
        """Write an object only if there is none: of several writers, one succeeds.

        Atomic on a local folder (hard link), in memory (lock), on S3 and GCS (conditional put).
        On any other file system it is a check followed by a write: two writers in the same
        instant may both succeed.

        Raises:
            AlreadyCommittedError: If there is one already.
        """
        try:
            _create(self.fs, self._path(rel), data)
        except FileExistsError as error:
            raise AlreadyCommittedError(
                f"{self.uri(rel)}: wanted to create it, found it present; the first writer's stands"
            ) from error

    def exists(self, rel: str) -> bool:
        """Whether there is an object or a folder, asked afresh."""
        return bool(self.fs.exists(self._folder(rel)))

    def list_dir(self, rel: str) -> list[str]:
        """Names in a folder ("" is the root), sorted, read afresh; none if it does not exist.

        Names that start with a dot are left out: they are what a killed writer left behind.
        """
        fs, path = self.fs, self._folder(rel)
        try:
            entries = fs.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        inside = (entry.rstrip("/") for entry in entries)
        names = {entry.rpartition("/")[2] for entry in inside if entry != path.rstrip("/")}
        return sorted(name for name in names if name and not name.startswith("."))

    def _path(self, rel: str) -> str:
        return f"{self.root.rstrip('/')}/{_checked(rel)}"

    def _folder(self, rel: str) -> str:
        return self._path(rel) if rel else self.root


def open_store(url: str) -> RunStore:
    """Open a run directory; nothing is created before the first write.

    Args:
        url: A folder, relative or absolute, or an fsspec URL such as ``s3://bucket/runs/a``.

    Raises:
        ConfigError: If the URL's protocol is unknown or its package is not installed.
    """
    if not url or "::" in url:
        raise ConfigError(
            f"store URL {url!r}: wanted a folder or one plain URL; chained URLs cache listings "
            "and hide what other processes commit"
        )
    protocol, separator, rest = url.partition("://")
    if not separator or protocol in _LOCAL:
        local = rest if separator else url
        url = os.path.abspath(Path(local).expanduser())  # noqa: PTH100 - resolves "..", no links
    elif not rest.strip("/"):
        raise ConfigError(f"store URL {url}: wanted a bucket or folder after {protocol}://")
    else:
        url = url.rstrip("/")
    return RunStore(url=url, root=_filesystem(url)[1])


def _filesystem(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0] if "://" in url else "file"
    options = {"auto_mkdir": True} if protocol in _LOCAL else {}
    try:
        fs, path = url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install '.[{extra}]'" if extra else f"install its package ({error})"
        raise ConfigError(f"store URL {url}: {protocol}:// is not available; {remedy}") from error
    except ValueError as error:
        known = "a folder, memory://, s3://, gs://"
        raise ConfigError(f"store URL {url}: {error}; use {known} or an fsspec protocol") from error
    return fs, str(path)


def _is_absolute(rel: str) -> bool:
    return "://" in rel or rel.startswith("/")


def _checked(rel: str) -> str:
    path = PurePosixPath(rel)
    if path.is_absolute() or ".." in path.parts or not path.parts or "://" in rel:
        raise ValueError(f"path {rel!r}: wanted one within the run directory, without '..'")
    return str(path)


def _protocols(fs: Any) -> frozenset[str]:
    found = fs.protocol
    return frozenset({found} if isinstance(found, str) else found)


def _is_local(fs: Any) -> bool:
    return bool(_protocols(fs) & _LOCAL)


def _create(fs: Any, path: str, data: bytes) -> None:
    """Create an object or raise FileExistsError, as strictly as the file system can."""
    if _is_local(fs):
        _create_local(Path(path), data)
    elif _protocols(fs) & _CONDITIONAL:
        _create_conditionally(fs, path, data)
    else:
        _create_under_lock(fs, path, data)


def _create_local(path: Path, data: bytes) -> None:
    # A hard link fails if the name is taken, and the name appears with all its bytes on disk.
    temporary = _write_temporary(path, data)
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise ConfigError(
            f"{path.parent}: commits need hard links, which this file system lacks ({error}); put "
            "the run on another disk or on an object store"
        ) from error
    finally:
        temporary.unlink()
    _sync_folder(path.parent)


def _replace_local(path: Path, data: bytes) -> None:
    temporary = _write_temporary(path, data)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise
    _sync_folder(path.parent)


def _write_temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    # Some network file systems refuse to sync a folder; the file itself is synced already.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _create_under_lock(fs: Any, path: str, data: bytes) -> None:
    with _process_lock:
        if fs.exists(path):
            raise FileExistsError(path)
        fs.pipe_file(path, data)


def _create_conditionally(fs: Any, path: str, data: bytes) -> None:
    for wait_s in (*_BUSY_WAITS_S, None):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            raise
        except OSError as error:
            code = _error_code(error)
            if code in _PRESENT_CODES:
                raise FileExistsError(path) from error
            if code not in _BUSY_CODES or wait_s is None:
                raise
            logger.warning("create_is_contended path=%s wait_s=%s", path, wait_s)
            time.sleep(wait_s)
        else:
            return


def _error_code(error: OSError) -> str:
    """S3's own code, which s3fs leaves in the error's cause; "" if there is none."""
    response = getattr(error.__cause__, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) else ""


def open_binary(url: str) -> Any:
    """Open an object for reading as a file, for readers that stream.

    Raises:
        ConfigError: As :func:`open_store`.
        FileNotFoundError: If there is none.
    """
    fs, path = _filesystem(url)
    return fs.open(path, "rb")
