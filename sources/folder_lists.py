"""Lists of samples as people have them: keys, names of files, paths, or columns of paths."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from schemas.errors import SourceError
from schemas.plain_files import open_plain, why_not
from schemas.text import decode_text
from sources.folder_files import Name, is_there
from sources.folder_listing import is_image_name
from sources.folder_patterns import fixed_folder, regex_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from schemas.sample import Task
    from sources.folder_files import FolderFiles
    from sources.folder_patterns import Home

_MAX_BYTES = 2**28
_DRIVE = re.compile(r"[A-Za-z]:/")
_NO_LABEL = frozenset({"", "none", "null", "nan"})


def read_list(
    rel: str,
    columns: Sequence[str] | None,
    tasks: Sequence[Task],
    files: FolderFiles,
    home: Home,
    *,
    field: str,
) -> tuple[Name, ...]:
    """Read the names of a split.

    A line is a key, or the name or path of an image, or the paths of an image and its labels with
    blanks, tabs or commas between them. Lines that say that there is no label are left out.

    Args:
        rel: The list, below the root: UTF-8 or UTF-16.
        columns: What the columns are; by default the image and the label of the only task.
        tasks: Tasks that are described.

    Raises:
        SourceError: If there is no such file, it is no text, or its columns are not known.
    """
    path, field = files.root / rel, f"{field}.list = {rel}"
    lines = _read_lines(path, field)
    read = _Lines(files, home, columns, tasks, f"{field}: {path}")
    if len(lines) > 1 and read.is_heading(lines[0], lines[1]):
        lines = lines[1:]
    return tuple(name for line in lines if (name := read.name(line)) is not None)


def _read_lines(path: Path, field: str) -> list[str]:
    try:
        with open_plain(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > _MAX_BYTES:
                raise SourceError(f"{field}: {path}: wanted a key a line, found {size} bytes")
            lines = decode_text(file.read()).splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{field}: {path}: wanted text in UTF-8, found {error}; save it as UTF-8"
        ) from error
    except OSError as error:
        raise SourceError(
            f"{field}: {path}: {why_not(error)}; it has to hold a key a line"
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


class _Lines:
    """Reads the lines of one list."""

    def __init__(
        self,
        files: FolderFiles,
        home: Home,
        columns: Sequence[str] | None,
        tasks: Sequence[Task],
        origin: str,
    ) -> None:
        self._files = files
        self._home = home
        self._columns = columns
        self._tasks = tasks
        self._origin = origin
        self._images = [
            regex_of(each, is_deep=True, suffixes=r"\.\w+")
            for each in files.patterns("image", home)
            if is_image_name(each)
        ]

    def is_heading(self, first: str, second: str) -> bool:
        """Whether the first line names columns."""
        parts = _split(first)
        return len(parts) > 1 and self._is_row(second) and not any("." in part for part in parts)

    def name(self, line: str) -> Name | None:
        """The sample of a line; None if the line says that it has no label.

        Raises:
            SourceError: If there are columns and nobody says of what.
        """
        if self._columns is None and (_is_plain(line) or self._has_image(Name(line, self._home))):
            return Name(line, self._home)
        if self._columns is not None or self._is_row(line):
            return self._row(_split(line))
        return Name(self._key(self._below_root(_clean(line))), self._home)

    def _is_row(self, line: str) -> bool:
        parts = _split(line)
        return len(parts) > 1 and is_image_name(parts[0])

    def _row(self, parts: Sequence[str]) -> Name | None:
        columns = self._columns or self._guessed(parts)
        if len(parts) < len(columns):
            raise SourceError(
                f"{self._origin}: wanted {len(columns)} columns ({', '.join(columns)}), found "
                f"{' '.join(parts)!r:.200}; correct the line or columns"
            )
        said = dict(zip(columns, parts, strict=False))
        labels = {task: _clean(said[task]) for task in self._tasks if task in said}
        if any(label.lower() in _NO_LABEL for label in labels.values()):
            return None
        image = self._below_root(_clean(said["image"]))
        paths: dict[str, str] = {
            task: self._below_root(label, task) for task, label in labels.items()
        }
        if is_there(self._files.root / image):
            paths["image"] = image
        return Name(self._key(image), self._home, paths)

    def _guessed(self, parts: Sequence[str]) -> Sequence[str]:
        if len(self._tasks) != 1:
            raise SourceError(
                f"{self._origin}: found columns, such as {' '.join(parts)!r:.200}; say what they "
                f"are: columns: [image, {', '.join(self._tasks[:2]) or 'depth'}]"
            )
        return ("image", self._tasks[0])

    def _key(self, path: str) -> str:
        """The key in the path or name of an image."""
        matches = (pattern.fullmatch(path) for pattern in self._images)
        key = next((match["key"] for match in matches if match), None)
        if key is not None:
            return key
        return str(PurePosixPath(path).with_suffix("")) if is_image_name(path) else path

    def _below_root(self, path: str, what: str = "image") -> str:
        """The same path, seen from the root: people list what it was on another machine."""
        for each in self._readings(path, what):
            if is_there(self._files.root / each):
                return each
        return path

    def _readings(self, path: str, what: str) -> Iterator[str]:
        folders = [fixed_folder(each) for each in self._files.patterns(what, self._home)]
        parts = PurePosixPath(path).parts
        is_elsewhere = path.startswith("/") or _DRIVE.match(path) is not None
        tails = [parts[first:] for first in range(1, len(parts))] if is_elsewhere else [parts]
        for tail in tails:
            if ".." not in tail:
                yield "/".join(tail)
                yield from (f"{folder}/{'/'.join(tail)}" for folder in folders if folder)

    def _has_image(self, name: Name) -> bool:
        return is_there(self._files.image(name))


def _split(line: str) -> list[str]:
    sign = next((sign for sign in "\t," if sign in line), None)
    return [part.strip().strip("\"'") for part in line.split(sign)]


def _clean(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def _is_plain(line: str) -> bool:
    """Whether a line can only be a key."""
    return (
        not is_image_name(line)
        and re.fullmatch(r"[\w./-]+", line) is not None
        and line[0] not in "./"
    )
