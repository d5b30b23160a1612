"""A run directory on any fsspec file system: whole-object reads and writes, create-if-absent.

Remote stores are asked again while they fail in passing (:mod:`storage.files.patience`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.core import url_to_fs

from schemas.errors import AlreadyCommittedError, ConfigError
from schemas.paths import LOCAL_PROTOCOLS, absolute_url
from schemas.plain_files import why_not
from storage.files.local import create_local, replace_local
from storage.files.patience import error_code, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Answer = TypeVar("Answer")

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_CONDITIONAL = frozenset({"s3", "s3a", "gs", "gcs"})
# s3fs itself turns only AWS's own answer into FileExistsError, not that of every S3 server.
_PRESENT_CODES = frozenset({"PreconditionFailed", "412"})
_BEYOND_END_CODES = frozenset({"InvalidRange", "416"})
# The tries of botocore and of s3fs would multiply with ours, and they know fewer errors.
_ASKS_ONCE = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
_ASKING_ONCE = frozenset({"s3", "s3a"})
_MAX_NAME_BYTES = 255
_ONE_ANSWER_BYTES = 32 * 2**20

_process_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class RunStore:
    """A folder, local or remote, in which all of a run lies.

    Paths given to its methods are relative to the root and use forward slashes; those that read
    take an absolute path or a URL as well. All raise OSError if the store cannot be reached. It
    pickles as two texts, and finds its file system anew in each process.

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
        """
        fs, path = _filesystem(rel) if _is_absolute(rel) else (self.fs, self._path(rel))

        def read() -> bytes:
            try:
                if start is None and end is None:
                    return _read_whole(fs, path)
                return bytes(fs.cat_file(path, start=start, end=end))
            except OSError as error:
                if error_code(error) in _BEYOND_END_CODES:
                    return b""
                raise

        return _ask(fs, read, f"read {self.uri(rel)}")

    def write_bytes(self, rel: str, data: bytes) -> None:
        """Write an object whole, replacing what is there; readers never see a part of it.

        Raises:
            OSError: If it cannot be written: the disk is full, the store cannot be reached.
        """
        fs, path = self.fs, self._path(rel)
        if _is_local(fs):
            replace_local(Path(path), data)
        else:
            _ask(fs, lambda: fs.pipe_file(path, data), f"write {self.uri(rel)}")

    def put_if_absent(self, rel: str, data: bytes) -> None:
        """Write an object only if there is none: of several writers, one succeeds.

        Atomic on a local folder (hard link), in memory (lock), on S3 and GCS (conditional put).
        There an answer may be lost on the way and the request be repeated, so what is found
        present is read, and if it is ``data`` then it is ours: of several writers of equal bytes
        more than one may succeed. On any other file system it is a check followed by a write: two
        writers in the same instant may both succeed.

        Raises:
            AlreadyCommittedError: If there is one already.
            OSError: If it cannot be written: the disk is full, the store cannot be reached.
        """
        fs, path = self.fs, self._path(rel)
        try:
            _create(fs, path, data, f"create {self.uri(rel)}")
        except FileExistsError as error:
            if _protocols(fs) & _CONDITIONAL and self.read_bytes(rel) == data:
                return
            raise AlreadyCommittedError(
                f"{self.uri(rel)}: wanted to create it, found it present; the first writer's stays"
            ) from error

    def put_file(self, local: Path, rel: str) -> None:
        """Copy a file of this machine, or what a link leads to, into the store.

        Raises:
            OSError: If it cannot be read or written.
        """
        fs, path = self.fs, self._path(rel)
        _ask(fs, lambda: fs.put_file(str(local.resolve()), path), f"write {self.uri(rel)}")

    def remove(self, rel: str) -> None:
        """Remove an object, or a folder with all in it; what is gone already does no harm."""
        fs, path = self.fs, self._path(rel)
        with contextlib.suppress(FileNotFoundError):
            _ask(fs, lambda: fs.rm(path, recursive=True), f"remove {self.uri(rel)}")

    def remove_file(self, rel: str) -> None:
        """Remove an object; one that is gone already does no harm."""
        fs, path = self.fs, self._path(rel)
        with contextlib.suppress(FileNotFoundError):
            _ask(fs, lambda: fs.rm_file(path), f"remove {self.uri(rel)}")

    def exists(self, rel: str) -> bool:
        """Whether there is an object or a folder, asked afresh."""
        fs, path = self.fs, self._folder(rel)
        return _ask(fs, lambda: bool(fs.exists(path)), f"find {self.uri(rel)}")

    def details(self, rel: str) -> Mapping[str, Any]:
        """What the store says about an object, in its own words: size, time, ….

        Raises:
            FileNotFoundError: If there is none.
        """
        fs, path = self.fs, self._path(rel)
        return _ask(fs, lambda: dict(fs.info(path)), f"ask about {self.uri(rel)}")

    def find(self, folder: str) -> dict[str, Mapping[str, Any]]:
        """All objects below a folder, by path relative to the run, with :meth:`details` of each.

        One request per thousand objects on an object store: for maintenance, not for polling.
        """
        fs, path, base = self.fs, self._folder(folder), f"{self.root.rstrip('/')}/"
        what = f"list {self.uri(folder)}"
        try:
            found: Mapping[str, Mapping[str, Any]] = _ask(
                fs, lambda: fs.find(path, detail=True), what
            )
        except FileNotFoundError:
            return {}
        inside = ((str(each), details) for each, details in found.items())
        return {
            each.removeprefix(base): details for each, details in inside if each.startswith(base)
        }

    def list_dir(self, rel: str) -> list[str]:
        """Names in a folder ("" is the root), sorted, read afresh; none if it does not exist.

        Names that start with a dot are left out: they are what a killed writer left behind.
        """
        fs, path = self.fs, self._folder(rel)
        try:
            entries: list[str] = _ask(
                fs, lambda: fs.ls(path, detail=False), f"list {self.uri(rel)}"
            )
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
    if not separator or protocol in LOCAL_PROTOCOLS:
        _expect_name(url, rest if separator else url)
    if separator and protocol not in LOCAL_PROTOCOLS and not rest.strip("/"):
        raise ConfigError(f"store URL {url}: wanted a bucket or folder after {protocol}://")
    url = absolute_url(url)
    return RunStore(url=url, root=_filesystem(url)[1])


def _expect_name(url: str, path: str) -> None:
    """Check that a local file system can have a path.

    Raises:
        ConfigError: If not.
    """
    try:
        Path(path).expanduser().stat()
        why = ""
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        longest = max((os.fsencode(part) for part in Path(path).parts), key=len, default=b"")
        is_long = len(longest) > _MAX_NAME_BYTES
        why = why_not(OSError(errno.ENAMETOOLONG, "")) if is_long else ""
    except (OSError, ValueError, RuntimeError) as error:
        why = why_not(error) if isinstance(error, OSError | ValueError) else str(error)
    if why:
        raise ConfigError(f"run.url, or a folder that is named as {url!r:.400}: {why}")


def streaming_filesystem(url: str) -> tuple[Any, str]:
    """File system and path of a URL for those who stream: its client repeats requests by itself.

    Raises:
        ConfigError: As :func:`open_store`.
    """
    return _filesystem(url, asks_once=False)


def _filesystem(url: str, *, asks_once: bool = True) -> tuple[Any, str]:
    protocol = url.partition("://")[0] if "://" in url else "file"
    options: dict[str, Any] = {"auto_mkdir": True} if protocol in LOCAL_PROTOCOLS else {}
    if asks_once and protocol in _ASKING_ONCE:
        options = _ASKS_ONCE
    try:
        fs, path = url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install '.[{extra}]'" if extra else f"install its package ({error})"
        raise ConfigError(f"store URL {url}: {protocol}:// is not available; {remedy}") from error
    except ValueError as error:
        known = "a folder, memory://, s3://, gs://"
        raise ConfigError(f"store URL {url}: {error}; use {known} or an fsspec protocol") from error
    if options is _ASKS_ONCE:
        fs.retries = 1
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
    return bool(_protocols(fs) & LOCAL_PROTOCOLS)


def _ask(fs: Any, call: Callable[[], Answer], what: str) -> Answer:
    """Call patiently, unless the store is this machine's own: its errors do not pass."""
    return call() if _is_local(fs) else patiently(call, what)


def _read_whole(fs: Any, path: str) -> bytes:
    # Without a range s3fs asks for the size first: two requests for every object, however small.
    if _protocols(fs) & _ASKING_ONCE:
        first = bytes(fs.cat_file(path, start=0, end=_ONE_ANSWER_BYTES))
        if len(first) < _ONE_ANSWER_BYTES:
            return first
    return bytes(fs.cat_file(path))


def _create(fs: Any, path: str, data: bytes, what: str) -> None:
    """Create an object or raise FileExistsError, as strictly as the file system can."""
    if _is_local(fs):
        create_local(Path(path), data)
    elif _protocols(fs) & _CONDITIONAL:
        patiently(lambda: _create_conditionally(fs, path, data), what)
    else:
        patiently(lambda: _create_under_lock(fs, path, data), what)


def _create_under_lock(fs: Any, path: str, data: bytes) -> None:
    with _process_lock:
        if fs.exists(path):
            raise FileExistsError(path)
        fs.pipe_file(path, data)


def _create_conditionally(fs: Any, path: str, data: bytes) -> None:
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        raise
    except OSError as error:
        if error_code(error) in _PRESENT_CODES:
            raise FileExistsError(path) from error
        raise
