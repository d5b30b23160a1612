"""Where the files of a folder's samples are, found as people mean their names."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from schemas.errors import SourceError
from schemas.sample import TASKS, Task
from schemas.text import same_name
from sources.folder_listing import is_image_name
from sources.folder_patterns import (
    Home,
    Patterns,
    fill,
    folder_of_split,
    patterns_of,
    tells_splits_apart,
)
from storage.samples.members import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sources.folder_description import FolderDescription

_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
_ANY_IMAGE = tuple(sorted(IMAGE_SUFFIXES))


def is_there(path: Path) -> bool:
    """Whether there is something of that name, even if it may not be read."""
    try:
        path.stat()
    except OSError as error:
        return error.errno not in _MISSING
    except ValueError:
        # A name with a zero byte.
        return False
    return True


@dataclass(frozen=True, slots=True)
class Name:
    """One sample as a description or list names it.

    Attributes:
        text: What to put for ``{key}``.
        home: Split that it was listed for; its patterns count.
        paths: Files that a list names itself, below the root, by ``image`` or task.
    """

    text: str
    home: Home = "train"
    paths: Mapping[str, str] = field(default_factory=dict, compare=False)


class FolderFiles:
    """Finds the files of samples.

    A name that is not there as it is written is looked for with other accents, case and, of
    images, other suffixes: ``0001.JPG`` where the pattern says ``.jpg``.
    """

    def __init__(self, description: FolderDescription, root: Path, tasks: Sequence[Task]) -> None:
        """Find the folders that ``{split}`` stands for.

        Raises:
            SourceError: If one is missing, or a task has no pattern for a split.
        """
        self.root = root
        self.is_apart = tells_splits_apart(description.image)
        self._description = description
        self._tasks = tuple(tasks)
        self._folders: dict[Home, str] = {
            home: folder_of_split(description.image, home, keys.folder, root)
            for home, keys in description.splits.listed().items()
        }
        self._names_in: dict[Path, dict[str, list[str]]] = {}
        for home in self._folders:
            for what in ("image", *self._tasks):
                if not self.patterns(what, home):
                    shown = "image" if what == "image" else f"labels.{what}.pattern"
                    raise SourceError(f"{shown}: has none for splits.{home}; add one")

    def patterns(self, what: str, home: Home) -> tuple[str, ...]:
        """Patterns with the split put in, in the order they are tried.

        Args:
            what: ``image``, ``caption`` or a task.
        """
        split = self._folders[home]
        return tuple(fill(each, "{key}", split) for each in patterns_of(self._of(what), home))

    def patterns_of_labels(self, home: Home) -> tuple[str, ...]:
        """Patterns of all labels and captions that are described, read or not."""
        return tuple(each for what in ("caption", *TASKS) for each in self.patterns(what, home))

    def paths(self, what: str, name: Name) -> list[str]:
        """Where a file of a sample may lie, below the root, in the order that is tried."""
        if what in name.paths:
            return [name.paths[what]]
        return [fill(each, name.text, "") for each in self.patterns(what, name.home)]

    def image(self, name: Name) -> Path:
        """The image; where it should be if it is missing."""
        return self._find("image", name)

    def label(self, name: Name, task: Task) -> Path:
        """The label file of a task; where it should be if it is missing."""
        return self._find(task, name)

    def caption(self, name: Name) -> Path | None:
        """The caption's file; None if captions are not described."""
        return self._find("caption", name) if self.patterns("caption", name.home) else None

    def has_labels(self, name: Name) -> bool:
        """Whether the labels of all tasks are there."""
        return all(is_there(self.label(name, task)) for task in self._tasks)

    def similar(
        self, path: Path, suffixes: Iterable[str] = (), *, leave_out: Iterable[Path] = ()
    ) -> Path | None:
        """A file of a name that people take for the same, if there is exactly one."""
        folder = path.parent if path.parent.is_dir() else self._similar_folder(path.parent)
        if folder is None:
            return None
        names = self._names(folder)
        for suffix in (path.suffix, *(suffixes if is_image_name(path.name) else ())):
            wanted = path.with_suffix(suffix).name if suffix else path.name
            found = [folder / each for each in names.get(same_name(wanted), ())]
            found = [each for each in found if each not in leave_out]
            alike = [each for each in found if each.stem == path.stem] or found
            if len(alike) == 1:
                return alike[0]
        return None

    def _of(self, what: str) -> Patterns:
        if what == "image":
            return self._description.image
        if what == "caption":
            return self._description.caption or {}
        files = self._description.labels.of(what)  # type: ignore[arg-type]
        return files.pattern if files else {}

    def _find(self, what: str, name: Name) -> Path:
        candidates = [self.root / each for each in self.paths(what, name)]
        found = next((path for path in candidates if is_there(path)), None)
        if found is not None:
            return found
        labels: set[Path] = set()
        if what == "image":
            others = (path for other in ("caption", *TASKS) for path in self.paths(other, name))
            labels = {self.root / path for path in others}
        suffixes = _ANY_IMAGE if what == "image" else ()
        similar = (self.similar(path, suffixes, leave_out=labels) for path in candidates)
        return next((path for path in similar if path is not None), candidates[0])

    def _similar_folder(self, folder: Path) -> Path | None:
        if folder == self.root or not folder.is_relative_to(self.root):
            return None
        return self.similar(folder)

    def _names(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._names_in:
            found: dict[str, list[str]] = {}
            for each in _names_of(folder):
                found.setdefault(same_name(each), []).append(each)
            self._names_in[folder] = found
        return self._names_in[folder]


def _names_of(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError:
        return []
