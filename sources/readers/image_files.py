"""A data set of one image file a sample, with label files whose names follow from the image's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from schemas.errors import SampleError, SourceError
from schemas.sample import Sample, Task
from sources.readers.files import (
    confined_to,
    ending_with,
    expect_one_size,
    list_files,
    read_image,
    stored_norm,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sources.protocol import Split

ReadArray = Callable[[Path], NDArray[Any]]


def index_images(
    images: Mapping[Split, Iterable[tuple[str, Path]]], *, root: Path
) -> dict[Split, dict[str, Path]]:
    """Give each image its key: its name, with underscores for signs that a key cannot hold.

    Args:
        images: Name and file of each image, by split.

    Returns:
        File by key, by split.

    Raises:
        SourceError: If a split is empty, or two images have one key.
    """
    seen: dict[str, Path] = {}
    found: dict[Split, dict[str, Path]] = {}
    for split, pairs in images.items():
        found[split] = {}
        for name, path in pairs:
            key = re.sub(r"[^\w-]", "_", name)
            if key in seen:
                raise SourceError(
                    f"{root}: {path} and {seen[key]} have the same key {key}; an image belongs "
                    "to one split, once: correct the lists or remove the copy"
                )
            found[split][key] = seen[key] = path
        if not found[split]:
            raise SourceError(f"{root}: found no images of {split}; unpack the data set again")
    return found


def numbered_arrays(folder: Path, split: Split) -> Iterator[tuple[str, Path]]:
    """Names (``train_000012``) and files of ``0.npy``, ``1.npy``, … in order of the numbers.

    Raises:
        SourceError: If a file is named otherwise.
    """
    paths = list_files(folder, "*.npy")
    odd = [path for path in paths if not (path.stem.isascii() and path.stem.isdecimal())]
    if odd:
        raise SourceError(f"{odd[0]}: wanted files named 0.npy, 1.npy, …; move it elsewhere")
    for path in sorted(paths, key=lambda one: int(one.stem)):
        yield f"{split}_{int(path.stem):06d}", path


def beside(image: Path, folder: str, suffix: str | None = None) -> Path:
    """File of an image's name in a folder beside that of the images, of another suffix if given."""
    return image.parents[1] / folder / (image.stem + (suffix or image.suffix))


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Image files with their label files; a :class:`sources.layouts.protocol.LabelledFiles`.

    Nothing is read to which a link leads out of the root.

    Attributes:
        root: Folder that ``meta["file"]`` is relative to.
        images: File by key, by split.
        labels: How to read each task's label, given the image's path.
        remedy: What to do if a file cannot be read; the end of each message.
        image_reader: How to read the image itself.
        stored_normals: How to read the normals as they are stored, to report their length.
        caption: Text that describes an image; "" if unknown.
        meta: What else to keep of an image, as plain JSON values.
        classes: Names of the classes of ``semseg``, or their number.
        notes: See the protocol.
    """

    root: Path
    images: Mapping[Split, Mapping[str, Path]]
    labels: Mapping[Task, ReadArray]
    remedy: str
    image_reader: ReadArray = read_image
    stored_normals: ReadArray | None = None
    caption: Callable[[Path], str] = lambda _: ""
    meta: Callable[[Path], dict[str, Any]] = field(default=lambda _: {})
    classes: tuple[str, ...] | int = ()
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks with a reader."""
        return tuple(self.labels)

    @property
    def num_classes(self) -> int:
        """Classes of ``semseg``; 0 if it is not read."""
        if "semseg" not in self.labels:
            return 0
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty if they are not known or ``semseg`` is not read."""
        if "semseg" not in self.labels or isinstance(self.classes, int):
            return ()
        return self.classes

    def splits(self) -> Mapping[Split, tuple[str, ...]]:
        """Keys by split."""
        return {split: tuple(paths) for split, paths in self.images.items()}

    def read(self, key: str) -> Sample:
        """Decode one sample; see the protocol.

        Raises:
            SampleError: If a file is missing or damaged, or a label has another size.
        """
        if key not in self._paths:
            raise SampleError("key_missing", f"{key} is in no split of {self.root}")
        path = self._paths[key]
        with confined_to(self.root), ending_with(self.remedy):
            sample = Sample(
                key=key,
                image=self.image_reader(path),
                labels={task: read(path) for task, read in self.labels.items()},
                caption=self.caption(path),
                meta={"file": path.relative_to(self.root).as_posix(), **self.meta(path)},
            )
            if self.stored_normals is not None and "normals" in self.labels:
                sample.meta["normals_norm"] = stored_norm(self.stored_normals(path))
        return expect_one_size(sample, path)

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {key: path for paths in self.images.values() for key, path in paths.items()}
