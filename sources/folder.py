"""A user's own folder of images and label maps, described by a short YAML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import SampleError, SourceError
from schemas.paths import resolve_path
from schemas.sample import Sample, SourceShard, Task, UnreadableSample
from sources.folder_description import TaskFiles, load_description, resolve_root
from sources.folder_keys import Names, sample_key, split_names, spread
from sources.folder_labels import decode_task_file, size_from_header
from sources.resize import fit_sample
from storage.samples.codecs import decode_image
from storage.samples.members import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from schemas.config import FolderSource as FolderConfig
    from sources.protocol import Split

    Array = NDArray[Any]

SHARD_KEYS = 64
_SIZES_CHECKED = 2048
_MAX_FILE_BYTES = 8 * MAX_PIXELS + 2**20
_MAX_CAPTION_BYTES = 2**16


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
        return self._shards.get(split, ())

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
        sample = Sample(
            key=key,
            image=image,
            labels={
                task: self._read_label(task, self._path(files.pattern, name), image.shape[:2])
                for task, files in self._files.items()
            },
            caption=self._caption(name),
            meta={"file_key": name},
        )
        return fit_sample(sample, self.image_size, self._description.fit)

    def _read_label(self, task: Task, path: Path, size: tuple[int, ...]) -> Array:
        try:
            label = decode_task_file(_read(path), self._files[task], task)
        except SampleError as error:
            raise SampleError(error.reason, f"{path}: {error.detail}") from error
        if label.shape[:2] != size:
            raise SampleError(
                "label_size_differs",
                f"labels.{task}: {path}: wanted the image's {size[1]} x {size[0]}, found "
                f"{label.shape[1]} x {label.shape[0]} (width x height); export both alike",
            )
        return label

    def _caption(self, name: str) -> str:
        if self._description.caption is None:
            return ""
        path = self._path(self._description.caption, name)
        return _read_caption(path) if path.is_file() else ""

    def _path(self, pattern: str, name: str) -> Path:
        return self._root / pattern.replace("{key}", name)

    def _label_files(self, task: Task) -> TaskFiles:
        files = self._description.labels.of(task)
        if files is None:
            raise SourceError(
                f"{self._file}: labels.{task}: missing, but method.tasks asks for {task}; "
                f"describe the files or leave {task} out of method.tasks"
            )
        return files

    def _group(self, split: Split, names: Names) -> tuple[SourceShard, ...]:
        keys = [sample_key(name) for name in names]
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
            missing = [name for name in names if not _is_file(self._path(pattern, name))]
            if missing:
                first = f"{self._path(pattern, missing[0])!s:.500}"
                raise SourceError(
                    f"{self._file}: {field} = {pattern}: {len(missing)} of {len(names)} files are "
                    f"missing, the first is {first}; correct {field}, add the files, or take their "
                    "keys out of the list"
                )

    def _expect_sizes(self, names: Names) -> None:
        for name in names:
            image = self._path(self._description.image, name)
            size = size_from_header(image)
            for task, files in self._files.items():
                label = self._path(files.pattern, name)
                found = size_from_header(label)
                if size and found and size != found:
                    raise SourceError(
                        f"{self._file}: labels.{task}: {label} is {found[0]} x {found[1]}, but its "
                        f"image {image} is {size[0]} x {size[1]} (width x height): wanted equal "
                        "sizes; export both alike, size: then resizes them together"
                    )


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MAX_FILE_BYTES:
            raise SampleError("too_large", f"{path}: {size} bytes; wanted one picture's file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SampleError("file_missing", f"{path}: it was there when the run began") from error


def _read_caption(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MAX_CAPTION_BYTES + 1)
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise SampleError("caption_invalid", f"{path}: wanted UTF-8, found {error}") from error
    if len(data) > _MAX_CAPTION_BYTES or not all(sign.isprintable() for sign in text.split()):
        raise SampleError(
            "caption_invalid",
            f"{path}: wanted at most {_MAX_CAPTION_BYTES} bytes of text without control signs",
        )
    return text


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # Such as a name that is longer than the file system takes.
        return False
