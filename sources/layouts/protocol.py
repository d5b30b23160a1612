"""What every data-set layout offers: how it is recognised, and its samples read one at a time.

A layout is one file of this package, and its line in the table of ``sources.layouts.registry``.
A :class:`SourceError` says that the data set as a whole cannot be read: the message names a file or
folder, what was found, and the remedy. A :class:`SampleError` says that one sample cannot: its
detail names the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from schemas.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from schemas.sample import Sample, Task
    from sources.protocol import Split
    from sources.readers.files import Signs

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutOptions:
    """What a user can say about a data set beyond where it lies; it pickles.

    Attributes:
        tasks: Tasks whose labels are read; None: all that the layout has.
        normals_dir: Folder of 8-bit normals beside a layout that has none (``nyu_depth_v2``).
        normals_signs: Factors of x, y, z that bring stored normals into the project's frame (x
            right, y up, z toward the camera).
        class_map: File that maps stored class ids to the classes that are wanted.
        num_classes: Which set of classes is read, of a layout with several (``cityscapes_mtpsl``);
            None: the one that most scores are published of.
    """

    tasks: tuple[Task, ...] | None = None
    normals_dir: Path | None = None
    normals_signs: Signs | None = None
    class_map: Path | None = None
    num_classes: int | None = None

    @property
    def signs(self) -> Signs:
        """``normals_signs``, or what changes nothing."""
        return self.normals_signs or (1.0, 1.0, 1.0)


class LabelledFiles(Protocol):
    """A data set that was opened: nothing but lists and headers has been read."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks whose labels :meth:`read` gives; a sample may lack some of them."""

    @property
    def num_classes(self) -> int:
        """Classes of ``semseg``, ids from 0, ignored ones not counted; 0 without such labels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Their names, in order of the ids; empty if they are not known."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing or odd but no error, each in words that say what to do."""

    def splits(self) -> Mapping[Split, tuple[str, ...]]:
        """Keys by split, in the data set's own order.

        Keys are unique over all splits and hold no dots or slashes. A split that the data set does
        not have is left out.
        """

    def read(self, key: str) -> Sample:
        """Decode one sample.

        Returns:
            Image and labels at their stored size, encoded as ``schemas.sample`` says; the labels
            have the size of the image. ``meta["file"]`` is the image's path within the root, as
            text.

        Raises:
            SampleError: If it cannot be read; the detail names the file.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One published way of laying a data set out.

    Attributes:
        name: What is typed on the command line: small letters, digits, underscores.
        title: One line for ``--help``.
        detect: Whether a folder looks like it; reads names only, never raises, and is true for at
            most one layout.
        open: Opens a folder. Raises SourceError if something that all samples need is missing.
        official_counts: Images by split in the published data set; an empty mapping if unknown.
        official_size: Height and width of all its images; None if unknown or of several sizes.
        depth_unit: Unit of its ``depth``; "" if that is no length.
    """

    name: str
    title: str
    detect: Callable[[Path], bool]
    open: Callable[[Path, LayoutOptions], LabelledFiles]
    official_counts: Mapping[Split, int] = field(default_factory=dict)
    official_size: tuple[int, int] | None = None
    depth_unit: str = "m"


def choose_labels(
    present: Mapping[Task, T], options: LayoutOptions, *, root: Path, remedy: str
) -> dict[Task, T]:
    """How to read the labels of each task: of those that were asked for, or of all.

    Args:
        present: Reader of each task whose labels lie under the root.
        remedy: What to do if there are no labels at all.

    Raises:
        SourceError: If there are none, or a task was asked for that is not there.
    """
    if not present:
        raise SourceError(f"{root}: found images but no labels; {remedy}")
    if options.tasks is None:
        return dict(present)
    missing = [task for task in options.tasks if task not in present]
    if missing:
        raise SourceError(
            f"{root}: no labels of {', '.join(missing)} there, only of {', '.join(present)}; leave "
            f"{', '.join(missing)} out of --tasks or add the files"
        )
    return {task: present[task] for task in options.tasks}
