"""A user's own folder of images and label maps, described by a short YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.errors import SampleError, SourceError
from schemas.sample import IGNORE_ID, Sample, SourceShard, Task, UnreadableSample
from sources.folder_description import (
    DepthFiles,
    NormalsFiles,
    SemsegFiles,
    load_description,
    resolve_root,
)
from sources.folder_keys import Names, split_names, spread
from sources.protocol import Split, resolve_path
from sources.resize import center_crop, resize_image, resize_nearest, resize_normals
from storage.codecs import decode_depth, decode_image, decode_normals, decode_semseg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.config import FolderSource as FolderConfig

SHARD_KEYS = 64
_EXIF_ORIENTATION = 0x0112
_FIRST_TURNED_ORIENTATION = 5
_SIZES_CHECKED = 2048

Array = NDArray[Any]
LabelFiles = NormalsFiles | DepthFiles | SemsegFiles


class FolderSource:
    """Images and label maps as files, grouped by key into virtual shards of 64.

    Of a split with a limit (``num_labelled``, …) evenly spaced keys are used. Sample keys are
    the file keys with dots and slashes replaced by underscores.
    """

    def __init__(self, config: FolderConfig, tasks: Sequence[Task]) -> None:
        """Read the description and check that all files are there and fit together.

        Sizes are read from file headers, of at most 2048 evenly spaced samples.

        Args:
            config: Section ``source`` of a run.
            tasks: Tasks whose labels are read.

        Raises:
            SourceError: If the description is wrong, or a folder, list, image or label file is
                missing, or a label differs in size from its image.
        """
        self._file = Path(resolve_path(config.description))
        self._description = load_description(self._file)
        self._root = resolve_root(self._description, self._file)
        self._files = {task: self._label_files(task) for task in tasks}
        names = split_names(self._description, self._root, self._file)
        limits: dict[Split, int | None] = {
            "train": config.num_labelled,
            "validation": config.num_validation,
            "test": config.num_test,
        }
        used = {split: spread(names[split], limit) for split, limit in limits.items()}
        self._names: dict[str, str] = {}
        self._shards = {split: self._group(split, used[split]) for split in limits}
        everything = tuple(name for part in used.values() for name in part)
        self._expect_files(everything)
        self._expect_sizes(spread(everything, _SIZES_CHECKED))

    @property
    def name(self) -> str:
        """Name that the description gives."""
        return self._description.name

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels after resizing."""
        return self._description.size

    @property
    def num_classes(self) -> int:
        """Classes of ``semseg``; 0 if none are described."""
        semseg = self._description.labels.semseg
        return semseg.num_classes if semseg else 0

    def shards(self, split: Split) -> tuple[SourceShard, ...]:
        """Groups of 64 keys in list order."""
        return self._shards[split]

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        """Read samples; see :class:`sources.protocol.LabelledSource`."""
        for key in shard.keys if keys is None else keys:
            try:
                yield self._read_one(key)
            except SampleError as error:
                path = self._path(self._description.image, self._names.get(key, key))
                yield UnreadableSample(
                    key=key, uri=str(path), reason=error.reason, detail=error.detail
                )

    def _read_one(self, key: str) -> Sample:
        if key not in self._names:
            raise SampleError("key_missing", f"{key} is in no split of {self._file}")
        name = self._names[key]
        image = decode_image(_read(self._path(self._description.image, name)))
        labels: dict[Task, Array] = {}
        for task, files in self._files.items():
            label = decode_label(_read(self._path(files.pattern, name)), files)
            if label.shape[:2] != image.shape[:2]:
                raise SampleError(
                    "label_size_differs",
                    f"labels.{task}: wanted the image's {image.shape[1]} x {image.shape[0]}, found "
                    f"{label.shape[1]} x {label.shape[0]} (width x height); export both alike",
                )
            labels[task] = self._fit_label(label, task)
        return Sample(
            key=key,
            image=resize_image(self._crop(image), self.image_size),
            labels=labels,
            caption=self._caption(name),
            meta={"file_key": name},
        )

    def _fit_label(self, label: Array, task: Task) -> Array:
        cropped = self._crop(label)
        if task == "normals":
            return resize_normals(cropped, self.image_size)
        return resize_nearest(cropped, self.image_size)

    def _crop(self, array: Array) -> Array:
        is_cropped = self._description.fit == "crop"
        return center_crop(array, self.image_size) if is_cropped else array

    def _caption(self, name: str) -> str:
        if self._description.caption is None:
            return ""
        path = self._path(self._description.caption, name)
        return path.read_text().strip() if path.is_file() else ""

    def _path(self, pattern: str, name: str) -> Path:
        return self._root / pattern.replace("{key}", name)

    def _label_files(self, task: Task) -> LabelFiles:
        files = self._description.labels.of(task)
        if files is None:
            raise SourceError(
                f"{self._file}: labels.{task}: missing, but method.tasks asks for {task}; "
                f"describe the files or leave {task} out of method.tasks"
            )
        return files

    def _group(self, split: Split, names: Names) -> tuple[SourceShard, ...]:
        keys = [re.sub(r"[^\w-]", "_", name) for name in names]
        for key, name in zip(keys, names, strict=True):
            if self._names.setdefault(key, name) != name:
                raise SourceError(
                    f"{self._file}: splits.{split}: {name!r} and {self._names[key]!r} differ only "
                    "in signs that a key cannot hold; rename one"
                )
        groups = [keys[i : i + SHARD_KEYS] for i in range(0, len(keys), SHARD_KEYS)]
        return tuple(
            SourceShard(name=f"{split}-{i:06d}", uri=str(self._root), keys=tuple(group))
            for i, group in enumerate(groups)
        )

    def _expect_files(self, names: Names) -> None:
        patterns = {"image": self._description.image}
        patterns |= {f"labels.{task}.pattern": files.pattern for task, files in self._files.items()}
        for field, pattern in patterns.items():
            missing = [name for name in names if not self._path(pattern, name).is_file()]
            if missing:
                raise SourceError(
                    f"{self._file}: {field} = {pattern}: {len(missing)} of {len(names)} files are "
                    f"missing, the first is {self._path(pattern, missing[0])}; mend {field}, add "
                    "the files, or take their keys out of the list"
                )

    def _expect_sizes(self, names: Names) -> None:
        for name in names:
            image = self._path(self._description.image, name)
            size = _header_size(image)
            for task, files in self._files.items():
                label = self._path(files.pattern, name)
                found = _header_size(label)
                if size and found and size != found:
                    raise SourceError(
                        f"{self._file}: labels.{task}: {label} is {found[0]} x {found[1]}, but its "
                        f"image {image} is {size[0]} x {size[1]} (width x height): wanted equal "
                        "sizes; export both alike, size: then resizes them together"
                    )


def decode_label(data: bytes, files: LabelFiles) -> Array:
    """Decode a label file as it is described.

    Args:
        data: A PNG file.
        files: What the description says of such files.

    Returns:
        The label at its own size, encoded as ``schemas.sample`` says.

    Raises:
        SampleError: If it cannot be decoded, or a class id is out of range.
    """
    if isinstance(files, NormalsFiles):
        return decode_normals(data) * np.array(files.signs, np.float32)
    if isinstance(files, DepthFiles):
        depth_m = decode_depth(data) * np.float32(files.metres_per_step * 1000)
        limit = np.inf if files.max_m is None else files.max_m
        return np.where(depth_m <= limit, depth_m, np.float32(0))
    return _class_ids(decode_semseg(data), files)


def _class_ids(stored: Array, files: SemsegFiles) -> Array:
    ids = stored.astype(np.int64) + files.id_offset
    is_ignored = np.isin(stored, files.ignore)
    outside = ~is_ignored & ((ids < 0) | (ids >= files.num_classes))
    if outside.any():
        found = int(stored[outside][0])
        raise SampleError(
            "class_id_out_of_range",
            f"labels.semseg: stored id {found} with id_offset = {files.id_offset} is outside "
            f"0..{files.num_classes - 1}; mend id_offset or num_classes, or add it to ignore",
        )
    return np.where(is_ignored, IGNORE_ID, ids).astype(np.uint8)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SampleError("file_missing", f"{path}: it was there when the run began") from error


def _header_size(path: Path) -> tuple[int, int] | None:
    """Width and height as displayed; None if the header cannot be read."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_EXIF_ORIENTATION, 1) >= _FIRST_TURNED_ORIENTATION
    except (OSError, SyntaxError, ValueError):
        return None
    return (height, width) if turned else (width, height)
