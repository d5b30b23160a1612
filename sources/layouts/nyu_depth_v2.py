"""The original NYU Depth v2: nyu_depth_v2_labeled.mat (HDF5) and splits.mat.

``images`` [N, 3, W, H] uint8, ``depths`` [N, W, H] metres, ``labels`` [N, W, H] ids of 894 names,
0 = unlabelled, as HDF5 shows them: MATLAB's axes reversed. ``splits.mat`` holds ``trainNdxs`` and
``testNdxs``, counted from 1; keys are counted from 0 (``000000``), as Bae et al. name their files.
Ids become classes by a class map: ``classMapping40.mat``, or a text of one class a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError, SourceError
from schemas.sample import IGNORE_ID, Sample, Task
from sources.layouts.classes import NYU_13, NYU_40
from sources.layouts.protocol import Layout, LayoutOptions, choose_labels
from sources.readers import files
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

MAP_FILE = "classMapping40.mat"
MAP_VARIABLE = "mapClass"
MAP_REMEDY = (
    "wanted a .mat with mapClass, or a text of one number a line: the class (from 1) of stored id "
    "1, 2, …, and 0 where it is not scored"
)
_KNOWN_NAMES = {len(names): names for names in (NYU_13, NYU_40)}


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
        self._scenes = file.texts("scenes")
        self._splits = _read_splits(root / SPLITS_FILE, count=len(self._images))
        self._normals_dir, self._signs = options.normals_dir, options.signs
        readers: dict[Task, Callable[[int], NDArray[Any]]] = {}
        if self._normals_dir is not None:
            readers["normals"] = self._read_normals
        depths = file.array("depths", ndim=3, kinds="f")
        readers["depth"] = lambda index: files.valid_depth(read_slice(depths, index, self._path).T)
        self._class_map = find_class_map(root, options.class_map)
        if self._class_map is not None:
            ids = file.array("labels", ndim=3, kinds="u")
            readers["semseg"] = partial(self._read_ids, ids, self._class_map)
        self._readers = choose_labels(readers, options, root=root, remedy=REMEDY)
        self._expect_normals()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Depth, and what was given beside the file."""
        return tuple(self._readers)

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
        labels = {task: read(index) for task, read in self._readers.items()}
        meta: dict[str, Any] = {"file": self._path.name, "index": index}
        if index < len(self._scenes):
            meta["group"] = self._scenes[index]
        if "normals" in labels:
            meta["normals_norm"] = files.stored_norm(files.read_image(self._normals_file(index)))
        image = np.ascontiguousarray(stored.transpose(2, 1, 0))
        return files.expect_one_size(
            Sample(key=key, image=image, labels=labels, meta=meta), self._path
        )

    def _notes(self) -> Iterator[str]:
        if self._normals_dir is None:
            yield (
                f"{self._path}: holds no normals; give those of another source with --normals "
                "FOLDER (8-bit PNG, NNNNNN.png counted from 0, as Bae et al. publish them)"
            )
        if self._class_map is None:
            yield (
                f"{self._path}: holds ids of 894 names, more than the 254 that labels can hold: "
                f"put {MAP_FILE} beside it, or give --class-map FILE, to have semseg"
            )

    def _read_ids(self, ids: Any, class_map: ClassMap, index: int) -> NDArray[Any]:
        stored = read_slice(ids, index, self._path).T
        return class_map.apply(stored, where=f"{self._path}: labels {index}")

    def _read_normals(self, index: int) -> NDArray[Any]:
        return files.read_normals_png(self._normals_file(index), self._signs)

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


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Stored ids to classes.

    Attributes:
        table: uint8 class of each stored id from 0; id 0 and others that are not scored are 255.
        num_classes: Classes, from 0.
    """

    table: NDArray[Any]
    num_classes: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, for NYUv2's 13 and 40; else empty."""
        return _KNOWN_NAMES.get(self.num_classes, ())

    def apply(self, stored: NDArray[Any], *, where: str) -> NDArray[Any]:
        """Map stored ids [H, W] to uint8 classes, 255 = ignore.

        Raises:
            SampleError: ``class_id_out_of_range`` if an id is beyond the table.
        """
        if stored.max(initial=0) >= len(self.table):
            raise SampleError(
                "class_id_out_of_range",
                f"{where}: stored id {int(stored.max())} is beyond the {len(self.table) - 1} ids "
                "of the class map; give the map that was made for this file",
            )
        return np.asarray(self.table[stored], dtype=np.uint8)


def find_class_map(root: Path, given: Path | None) -> ClassMap | None:
    """The class map that was given, or ``classMapping40.mat`` if it lies in the folder.

    Raises:
        SourceError: If the file is missing or malformed.
    """
    beside = root / MAP_FILE
    if given is None and not beside.is_file():
        return None
    path = beside if given is None else given
    if path.suffix == ".mat":
        raw = np.ravel(read_variables(path, (MAP_VARIABLE,), remedy=MAP_REMEDY)[MAP_VARIABLE])
    else:
        raw = _read_text(path)
    return _make_map(raw, path)


def _read_text(path: Path) -> NDArray[Any]:
    try:
        return np.array([int(line) for line in path.read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: {error}; {MAP_REMEDY}") from error


def _make_map(raw: NDArray[Any], path: Path) -> ClassMap:
    if raw.size == 0 or raw.dtype.kind not in "uif" or raw.min() < 0 or raw.max() > IGNORE_ID - 1:
        raise SourceError(f"{path}: found {raw.dtype} {raw[:5]}; {MAP_REMEDY}")
    classes = raw.astype(np.int64)
    table = np.where(classes == 0, IGNORE_ID, classes - 1)
    return ClassMap(np.concatenate([[IGNORE_ID], table]).astype(np.uint8), int(classes.max()))


LAYOUT = Layout(
    name="nyu_depth_v2",
    title="nyu_depth_v2_labeled.mat with splits.mat: images, depth, and 894 names through a map",
    detect=detect,
    open=open_layout,
    official_counts={"train": 795, "test": 654},
    official_size=(480, 640),
)
