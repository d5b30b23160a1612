"""A data set of one image file a sample, with label files whose names follow from the image's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from schemas.errors import SampleError, SourceError
from schemas.sample import Sample, Task
from sources.readers.files import confined_to, expect_one_size, read_image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sources.protocol import Split

ReadArray = Callable[[Path], NDArray[Any]]


def make_key(name: str) -> str:
    """A name as a key: signs that a key cannot hold become underscores."""
    return re.sub(r"[^\w-]", "_", name)


def index_images(
    images: Mapping[Split, Iterable[tuple[str, Path]]], *, root: Path
) -> tuple[dict[Split, tuple[str, ...]], dict[str, Path]]:
    """Give each image its key.

    Args:
        images: Name and file of each image, by split.
        root: For messages.

    Returns:
        Keys by split, and the file of each key.

    Raises:
        SourceError: If a split is empty, or two images have one key.
    """
    keys: dict[Split, tuple[str, ...]] = {}
    paths: dict[str, Path] = {}
    for split, pairs in images.items():
        named = [(make_key(name), path) for name, path in pairs]
        if not named:
            raise SourceError(f"{root}: found no images of {split}; unpack the data set again")
        for key, path in named:
            if key in paths:
                raise SourceError(
                    f"{root}: {path} and {paths[key]} have the same key {key}; an image belongs "
                    "to one split, once: mend the lists or remove the copy"
                )
            paths[key] = path
        keys[split] = tuple(key for key, _ in named)
    return keys, paths


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Image files with their label files; a :class:`sources.layouts.protocol.LabelledFiles`.

    Attributes:
        root: Folder that ``meta["file"]`` is relative to.
        keys: Keys by split.
        images: File of each key's image.
        labels: How to read each task's label, given the image's path.
        image_reader: How to read the image itself.
        caption: Text that describes an image; "" if unknown.
        meta: What else to keep of an image, as plain JSON values.
        classes: Classes of ``semseg``.
        names: Their names.
        notes: See the protocol.
    """

    root: Path
    keys: Mapping[Split, tuple[str, ...]]
    images: Mapping[str, Path]
    labels: Mapping[Task, ReadArray]
    image_reader: ReadArray = read_image
    caption: Callable[[Path], str] = lambda _: ""
    meta: Callable[[Path], dict[str, Any]] = field(default=lambda _: {})
    classes: int = 0
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks with a reader."""
        return tuple(self.labels)

    @property
    def num_classes(self) -> int:
        """Classes of ``semseg``; 0 if it is not read."""
        return self.classes if "semseg" in self.labels else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty if ``semseg`` is not read."""
        return self.names if "semseg" in self.labels else ()

    def splits(self) -> Mapping[Split, tuple[str, ...]]:
        """Keys by split."""
        return self.keys

    def read(self, key: str) -> Sample:
        """Decode one sample; see the protocol.

        Raises:
            SampleError: If a file is missing or damaged, or a label has another size.
        """
        if key not in self.images:
            raise SampleError("key_missing", f"{key} is in no split of {self.root}")
        path = self.images[key]
        with confined_to(self.root):
            sample = Sample(
                key=key,
                image=self.image_reader(path),
                labels={task: read(path) for task, read in self.labels.items()},
                caption=self.caption(path),
                meta={"file": path.relative_to(self.root).as_posix(), **self.meta(path)},
            )
        return expect_one_size(sample, path)
