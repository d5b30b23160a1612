"""Which files of a folder are looked at: one rule for sources, preparation and prediction.

Hidden names and what systems leave behind are passed over, links are followed, and what is not
used is counted by kind.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.recognise import HEIC_REMEDY
from storage.samples.members import HEIC_SUFFIXES, IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUFFIX_HINTS = {
    **dict.fromkeys(HEIC_SUFFIXES, HEIC_REMEDY),
    **dict.fromkeys(
        (".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd"), "save them as JPEG or PNG"
    ),
}
"""What to do with pictures that are not read."""

HIDDEN = "hidden"
DANGLING = "links that lead nowhere"
CLOSED = "folders that may not be read"
NO_FILES = "names of no plain files"
NO_TEXT = "names that are not in UTF-8, rename them"
RESULTS = "folders of results"
WITHOUT_LABELS = "pictures without all labels"
TAKEN = "pictures of a name that another has"
UNFIT = "pictures that do not fit the pattern"
_ONE = {
    DANGLING: "link that leads nowhere",
    CLOSED: "folder that may not be read",
    NO_FILES: "name of no plain file",
    NO_TEXT: "name that is not in UTF-8, rename it",
    RESULTS: "folder of results",
    WITHOUT_LABELS: "picture without all labels",
    TAKEN: "picture of a name that another has",
    UNFIT: "picture that does not fit the pattern",
}

_SYSTEM_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"})
_MOST_KINDS = 6


@dataclass(frozen=True)
class Unused:
    """Files that are passed over.

    Attributes:
        counts: How many of each kind: a suffix, or one of this module's words.
        first: The first file of each kind.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, Path] = field(default_factory=dict)

    def add(self, kind: str, path: Path) -> None:
        """Count a file."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, path)

    def add_file(self, path: Path) -> None:
        """Count a file by its suffix."""
        self.add(path.suffix.lower() or "without a suffix", path)

    def merge(self, other: Unused) -> None:
        """Count what was counted elsewhere too."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.first.setdefault(kind, other.first[kind])

    def describe(self) -> str:
        """One line such as ``37 files not used: 20 .HEIC (…), 17 hidden``; "" if all are used."""
        if not self.counts:
            return ""
        total = sum(self.counts.values())
        kinds = sorted(self.counts.items(), key=lambda item: -item[1])
        parts = list(starmap(self._part, kinds[:_MOST_KINDS]))
        others = sum(count for _, count in kinds[_MOST_KINDS:])
        parts += [f"{others} others"] if others else []
        return f"{total} file{'s' if total > 1 else ''} not used: {', '.join(parts)}"

    def _part(self, kind: str, count: int) -> str:
        first = self.first[kind]
        if kind in _ONE:
            return f"{count} {kind if count > 1 else _ONE[kind]} ({_printable(first)})"
        hint = SUFFIX_HINTS.get(kind)
        shown = _printable(Path(first.suffix)) if kind.startswith(".") else kind
        return f"{count} {shown} ({hint})" if hint else f"{count} {shown}"


@dataclass(frozen=True)
class Listing:
    """What is in a folder: the files to use, sorted, and the others by kind."""

    files: tuple[Path, ...]
    unused: Unused


def list_images(root: Path, *, is_left_out: Callable[[Path], bool] | None = None) -> Listing:
    """All images in a folder and the folders below it.

    Args:
        root: An existing folder.
        is_left_out: Says of a folder, ``root`` included, that nothing in it is listed or counted.
    """
    unused = Unused()
    images: list[Path] = []
    for file in list_files(root, unused, is_left_out=is_left_out):
        if is_image_name(file.name):
            images.append(file)
        else:
            unused.add_file(file)
    return Listing(tuple(images), unused)


def list_files(
    root: Path,
    unused: Unused,
    *,
    levels: int | None = None,
    is_left_out: Callable[[Path], bool] | None = None,
) -> list[Path]:
    """All plain files in a folder and the folders below it, sorted; none if there is no folder.

    Links are followed once all real folders are done, and no folder is entered twice, nor one that
    holds ``root``: links in a circle come to an end.

    Args:
        unused: Gets what is hidden or cannot be reached.
        levels: How many levels of folders are searched; 1 is ``root`` alone, None is all.
        is_left_out: Says of a folder, ``root`` included, that nothing in it is listed or counted.
    """
    home = Path(os.path.realpath(root))
    seen = {_identity(folder) for folder in home.parents}
    found: list[Path] = []
    waiting: list[tuple[Path, int]] = [(root, 1)]
    linked: list[tuple[Path, int]] = []
    while waiting or linked:
        folder, level = waiting.pop() if waiting else linked.pop(0)
        identity = _identity(folder)
        if identity in seen or (is_left_out is not None and is_left_out(folder)):
            continue
        seen.add(identity)
        for kind, path in _entries(folder, unused):
            if kind == "file":
                found.append(path)
            elif levels is None or level < levels:
                (linked if kind == "linked folder" else waiting).append((path, level + 1))
            elif is_image_name(path.name):
                unused.add(NO_FILES, path)
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's own: ``._x.jpg``, ``__MACOSX``, …."""
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def is_text(name: str) -> bool:
    """Whether a name can be written; Python keeps odd bytes of a name as half surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_image_name(name: str) -> bool:
    """Whether a file's suffix is that of an image that can be read."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _entries(folder: Path, unused: Unused) -> Iterator[tuple[str, Path]]:
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        unused.add(CLOSED, folder)
        return
    for entry in ordered:
        kind = _kind(entry)
        if kind == HIDDEN or kind in _ONE:
            unused.add(kind, folder / entry.name)
        else:
            yield kind, folder / entry.name


def _kind(entry: os.DirEntry[str]) -> str:
    if is_hidden(entry.name) or not is_text(entry.name):
        return HIDDEN if is_hidden(entry.name) else NO_TEXT
    if entry.is_file(follow_symlinks=False):
        return "file"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    try:
        mode = entry.stat().st_mode
    except OSError:
        return DANGLING
    if stat.S_ISDIR(mode):
        return "linked folder"
    return "file" if stat.S_ISREG(mode) else NO_FILES


def _identity(folder: Path) -> tuple[int, int] | Path:
    try:
        found = folder.stat()
    except OSError:
        return folder
    return found.st_dev, found.st_ino


def _printable(path: Path) -> str:
    """A name may hold what steers a terminal."""
    return str(path) if str(path).isprintable() else ascii(str(path))
