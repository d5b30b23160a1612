"""The original NYU Depth v2: nyu_depth_v2_labeled.mat (HDF5) and splits.mat.

``images`` [N, 3, W, H] uint8, ``depths`` [N, W, H] metres, ``labels`` [N, W, H] ids of 894 names,
0 = unlabelled, as HDF5 shows them: MATLAB's axes reversed. ``splits.mat`` holds ``trainNdxs`` and
``testNdxs``, counted from 1; keys are counted from 0 (``000000``), as Bae et al. name their files.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError, SourceError
from schemas.sample import Sample, Task
from sources.layouts.class_map import ClassMap, find_class_map
from sources.layouts.protocol import Layout, LayoutOptions, Signs, choose_tasks
from sources.readers.files import expect_one_size, read_image, read_normals_png, stored_norm
from sources.readers.files import valid_depth as valid
from sources.readers.hdf5 import MatFile, read_slice
from sources.readers.matlab import read_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from sources.protocol import Split

LABELED = "nyu_depth_v2_labeled.mat"
SPLITS_FILE = "splits.mat"
VARIABLES: dict[Split, str] = {"train": "trainNdxs", "test": "testNdxs"}
REMEDY = f"fetch {LABELED} again (2 972 037 809 bytes, md5 520609c519fba3ba5ac58c8fefcc3530)"
SPLITS_REMEDY = f"fetch splits.mat, which goes with {LABELED}, and put it beside it"


def detect(root: Path) -> bool:
    """Whether the file of labelled pairs is there."""
    return (root / LABELED).is_file()


def open_layout(root: Path, options: LayoutOptions) -> LabelledMat:
    """Open the two files; see :class:`LabelledMat`.

    Raises:
        SourceError: If a file is missing or damaged, or the split does not fit the pairs.
    """
    return LabelledMat(root, options)


class LabelledMat:
    """The labelled pairs.

    Depth is ``depths`` (holes filled). ``semseg`` is there only with a class map, since 894 ids are
    more than a label can hold; normals only with ``normals_dir``, a folder of 8-bit PNG files
    ``NNNNNN.png``, or of ``{train,test}/norm/NNNNNN.png``.
    """

    def __init__(self, root: Path, options: LayoutOptions) -> None:
        """Open the files.

        Raises:
            SourceError: See :func:`open_layout`.
        """
        self._path = root / LABELED
        file = MatFile(self._path, remedy=REMEDY)
        self._images = file.array("images", ndim=4, kinds="u")
        self._depths = file.array("depths", ndim=3, kinds="f")
        self._class_map = find_class_map(root, options.class_map)
        self._ids = file.array("labels", ndim=3, kinds="u") if self._class_map else None
        self._splits = _read_splits(root / SPLITS_FILE, count=len(self._images))
        self._scenes = file.texts("scenes")
        self._normals_dir = options.normals_dir
        self._signs: Signs = options.normals_signs or (1.0, 1.0, 1.0)
        self._readers: dict[Task, Callable[[int], NDArray[Any]]] = {
            "normals": self._read_normals,
            "depth": self._read_depth,
            "semseg": partial(self._read_ids, self._class_map),
        }
        self._tasks = choose_tasks(tuple(self._present()), options, root=root)
        self._expect_normals()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Depth, and what was given beside the file."""
        return self._tasks

    @property
    def num_classes(self) -> int:
        """Classes of the class map."""
        return self._class_map.num_classes if self._class_map and "semseg" in self.tasks else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that the class map gives."""
        return self._class_map.names if self._class_map and "semseg" in self.tasks else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What could be had with one more file."""
        return tuple(self._notes())

    def splits(self) -> Mapping[Split, tuple[str, ...]]:
        """Keys of the official split."""
        return self._splits

    def read(self, key: str) -> Sample:
        """Decode one pair.

        Raises:
            SampleError: If that part of the file is damaged, or its normals are.
        """
        if not any(key in part for part in self._splits.values()):
            raise SampleError("key_missing", f"{key} is in no split of {self._path.parent}")
        index = int(key)
        stored = read_slice(self._images, index, self._path)
        labels = {task: self._readers[task](index) for task in self.tasks}
        meta: dict[str, Any] = {"file": self._path.name, "index": index}
        if index < len(self._scenes):
            meta["group"] = self._scenes[index]
        if "normals" in labels:
            meta["normals_norm"] = stored_norm(read_image(self._normals_file(index)))
        image = np.ascontiguousarray(stored.transpose(2, 1, 0))
        return expect_one_size(Sample(key=key, image=image, labels=labels, meta=meta), self._path)

    def _present(self) -> Iterator[Task]:
        if self._normals_dir is not None:
            yield "normals"
        yield "depth"
        if self._class_map is not None:
            yield "semseg"

    def _notes(self) -> Iterator[str]:
        if self._normals_dir is None:
            yield (
                f"{self._path}: holds no normals; give those of another source with --normals "
                "FOLDER (8-bit PNG, NNNNNN.png counted from 0, as Bae et al. publish them)"
            )
        if self._class_map is None:
            yield (
                f"{self._path}: holds ids of 894 names, more than the 254 that labels can hold: "
                "put classMapping40.mat beside it, or give --class-map FILE, to have semseg"
            )

    def _read_depth(self, index: int) -> NDArray[Any]:
        return valid(read_slice(self._depths, index, self._path).T)

    def _read_ids(self, class_map: ClassMap | None, index: int) -> NDArray[Any]:
        stored = read_slice(self._ids, index, self._path).T
        assert class_map is not None  # noqa: S101 - semseg is read only with one
        return class_map.apply(stored, where=f"{self._path}: labels {index}")

    def _read_normals(self, index: int) -> NDArray[Any]:
        return read_normals_png(self._normals_file(index), self._signs)

    def _normals_file(self, index: int) -> Path:
        folder, name = self._normals_dir, f"{index:06d}.png"
        if folder is None:
            raise SampleError("file_missing", f"{name}: no folder of normals was given")
        inner = [folder / split / "norm" / name for split in ("train", "test")]
        return next((path for path in inner if path.is_file()), folder / name)

    def _expect_normals(self) -> None:
        if "normals" not in self.tasks:
            return
        first = next(key for part in self._splits.values() for key in part)
        if not self._normals_file(int(first)).is_file():
            raise SourceError(
                f"{self._normals_dir}: wanted {first}.png or {{train,test}}/norm/{first}.png, "
                "found neither; point --normals at the folder of the normals"
            )


def _read_splits(path: Path, *, count: int) -> dict[Split, tuple[str, ...]]:
    variables = read_variables(path, tuple(VARIABLES.values()), remedy=SPLITS_REMEDY)
    keys: dict[Split, tuple[str, ...]] = {}
    seen: set[int] = set()
    for split, name in VARIABLES.items():
        numbers = [int(number) for number in np.ravel(variables[name])]
        outside = [number for number in numbers if not 1 <= number <= count]
        if outside or not numbers:
            raise SourceError(
                f"{path}: {name}: wanted numbers 1 to {count}, the pairs of {LABELED}; found "
                f"{outside[0] if outside else 'none'}; {SPLITS_REMEDY}"
            )
        if seen & set(numbers) or len(set(numbers)) != len(numbers):
            raise SourceError(f"{path}: {name}: a number comes twice; {SPLITS_REMEDY}")
        seen |= set(numbers)
        keys[split] = tuple(f"{number - 1:06d}" for number in numbers)
    return keys


LAYOUT = Layout(
    name="nyu_depth_v2",
    title="nyu_depth_v2_labeled.mat with splits.mat: images, depth, and 894 names through a map",
    detect=detect,
    open=open_layout,
    official_counts={"train": 795, "test": 654},
    official_size=(480, 640),
)
