"""A user's own folder of images and label maps, described by a short YAML."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import SampleError, SourceError
from schemas.paths import resolve_path
from schemas.plain_files import open_plain, why_not
from schemas.sample import CAPTION_ERROR, Sample, SourceShard, Task, UnreadableSample
from schemas.text import control_sign, decode_text, without_format_signs
from sources.folder_description import TaskFiles, load_description, resolve_root
from sources.folder_files import FolderFiles, Name, is_there
from sources.folder_keys import Names, key_of, split_names
from sources.folder_labels import decode_task_file, size_from_header, turned_hint
from sources.folder_listing import Unused
from sources.resize import fit_sample
from sources.spread import evenly
from storage.samples.codecs import decode_image
from storage.samples.members import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from schemas.config_source import FolderSource as FolderConfig
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

        Attributes:
            whole_train: See :class:`sources.protocol.DealtSource`.

        Raises:
            SourceError: If the description is wrong, or a folder, list, image or label file is
                missing, or a label differs in size from its image.
        """
        self._file = Path(resolve_path(config.description))
        self._description = load_description(self._file)
        self._root = resolve_root(self._description, self._file)
        self._labels = {task: self._label_files(task) for task in tasks}
        self._unused = Unused()
        try:
            self._files = FolderFiles(self._description, self._root, self._counted(config))
        except SourceError as error:
            raise SourceError(f"{self._file}: {error}") from error
        names = split_names(self._description, self._files, self._file, self._unused)
        limits: dict[Split, int | None] = {
            "train": config.num_labelled,
            "validation": config.num_validation,
            "test": config.num_test,
        }
        used = {
            split: names[split] if limit is None else tuple(evenly(names[split], limit))
            for split, limit in limits.items()
        }
        counted = self._counted(config)
        self.whole_train = {key_of(name, self._files): counted for name in names["train"]}
        self._names: dict[str, Name] = {}
        self._shards = {split: self._group(split, used[split]) for split in limits}
        everything = tuple(name for part in used.values() for name in part)
        self._expect_files(everything)
        self._expect_sizes(evenly(everything, _SIZES_CHECKED))

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

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the folder: the files in it that are not used."""
        there = self._unused.describe()
        return (f"{self._root}: {there}",) if there else ()

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
                name = self._names.get(key)
                path = self._root / key if name is None else self._files.image(name)
                yield UnreadableSample(
                    key=key, uri=str(path), reason=error.reason, detail=error.detail
                )

    def tasks_of(self, shard: SourceShard, key: str) -> tuple[Task, ...]:  # noqa: ARG002
        """All: an image without a file for each is refused or left out."""
        return self.tasks

    def image_file(self, key: str) -> Path:
        """The image's file of a sample of a split."""
        return self._files.image(self._names[key])

    def label_file(self, key: str, task: Task) -> Path:
        """The label's file of a sample of a split, of a task that is read."""
        return self._files.label(self._names[key], task)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks whose labels are read."""
        return tuple(self._labels)

    @property
    def reading(self) -> dict[str, Any]:
        """Fields of the description that decide what is made of the files; defaults are absent."""
        tree = self._description.model_dump(
            mode="json", exclude={"name", "root", "splits", "labels"}, exclude_defaults=True
        )
        for task, files in self._labels.items():
            fields = files.model_dump(mode="json", exclude_defaults=True)
            tree |= {f"labels.{task}.{name}": value for name, value in fields.items()}
        return tree

    def files_sign(self, key: str) -> int | None:
        """A number below 2^63 of the sizes of a sample's image and labels; None if one is gone.

        Sizes in bytes differ for nearly all compressed files, and nothing is opened.
        """
        files = [self.image_file(key), *(self.label_file(key, task) for task in self._labels)]
        try:
            sizes = [file.stat().st_size for file in files]
        except OSError:
            return None
        digest = hashlib.blake2b(repr(sizes).encode(), digest_size=8).digest()
        return int.from_bytes(digest) >> 1

    def _read_one(self, key: str) -> Sample:
        if key not in self._names:
            raise SampleError("key_missing", f"{key} is in no split of {self._file}")
        name = self._names[key]
        image = decode_image(_read(self._files.image(name)))
        caption, odd = self._caption(name)
        sample = Sample(
            key=key,
            image=image,
            labels={
                task: self._read_label(task, self._files.label(name, task), image.shape[:2])
                for task in self._labels
            },
            caption=caption,
            meta={"file_key": name.text} | ({CAPTION_ERROR: odd} if odd else {}),
        )
        return fit_sample(sample, self.image_size, self._description.fit)

    def _read_label(self, task: Task, path: Path, size: tuple[int, ...]) -> Array:
        try:
            label = decode_task_file(_read(path), self._labels[task], task)
        except SampleError as error:
            raise SampleError(error.reason, f"{path}: {error.detail}") from error
        if label.shape[:2] != size:
            raise SampleError(
                "label_size_differs",
                f"labels.{task}: {path}: wanted the image's {size[1]} x {size[0]}, found "
                f"{label.shape[1]} x {label.shape[0]} (width x height); export both alike",
            )
        return label

    def _caption(self, name: Name) -> tuple[str, str]:
        """The caption, and why it is empty if it cannot be used."""
        path = self._files.caption(name)
        if path is None or not is_there(path):
            return "", ""
        try:
            return _read_caption(path), ""
        except SampleError as error:
            return "", error.detail

    def _counted(self, config: FolderConfig) -> tuple[Task, ...]:
        """Tasks that decide which images are of a split: those read, and those dealt."""
        dealt = config.labels.tasks if config.labels.is_dealt else ()
        described = self._description.labels.described()
        return tuple(dict.fromkeys((*self._labels, *(t for t in dealt if t in described))))

    def _label_files(self, task: Task) -> TaskFiles:
        files = self._description.labels.of(task)
        if files is None:
            raise SourceError(
                f"{self._file}: labels.{task}: missing, but method.tasks asks for {task}; "
                f"describe the files or leave {task} out of method.tasks"
            )
        return files

    def _group(self, split: Split, names: Names) -> tuple[SourceShard, ...]:
        keys = [key_of(name, self._files) for name in names]
        for key, name in zip(keys, names, strict=True):
            if (other := self._names.setdefault(key, name).text) != name.text:
                raise SourceError(
                    f"{self._file}: splits.{split}: {name.text!r} and {other!r} differ only "
                    "in signs that a key cannot hold; rename one"
                )
        groups = [keys[i : i + SHARD_KEYS] for i in range(0, len(keys), SHARD_KEYS)]
        return tuple(
            SourceShard(name=f"{split}-{i:06d}", uri=str(self._root), keys=tuple(group))
            for i, group in enumerate(groups)
        )

    def _expect_files(self, names: Names) -> None:
        found = {"image": [(name, self._files.image(name)) for name in names]}
        for task in self._labels:
            found[f"labels.{task}.pattern"] = [(n, self._files.label(n, task)) for n in names]
        for field, paths in found.items():
            missing = [(name, path) for name, path in paths if not is_there(path)]
            if missing:
                what = field.removeprefix("labels.").removesuffix(".pattern")
                pattern = " or ".join(self._files.patterns(what, missing[0][0].home))
                raise SourceError(
                    f"{self._file}: {field} = {pattern}: {len(missing)} of {len(names)} files are "
                    f"missing, the first is {missing[0][1]!s:.500}; correct {field}, add the "
                    "files, take their keys out of the list, or say skip_unlabelled: true there"
                )

    def _expect_sizes(self, names: Sequence[Name]) -> None:
        for name in names:
            image = self._files.image(name)
            size = size_from_header(image)
            for task in self._labels:
                label = self._files.label(name, task)
                found = size_from_header(label)
                if size and found and size != found:
                    raise SourceError(
                        f"{self._file}: labels.{task}: {label} is {found[0]} x {found[1]}, but its "
                        f"image {image} is {size[0]} x {size[1]} (width x height): wanted equal "
                        "sizes; export both alike, size: then resizes them together"
                        + turned_hint(image, size, found)
                    )


def _read(path: Path, most_bytes: int = _MAX_FILE_BYTES) -> bytes:
    """The bytes of a plain file.

    Raises:
        SampleError: ``file_missing``, ``file_unreadable``, or ``too_large``.
    """
    try:
        with open_plain(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > most_bytes:
                raise SampleError("too_large", f"{path}: {size} bytes; wanted at most {most_bytes}")
            return file.read()
    except FileNotFoundError as error:
        raise SampleError("file_missing", f"{path}: it was there when the run began") from error
    except OSError as error:
        raise SampleError("file_unreadable", f"{path}: {why_not(error)}") from error


def _read_caption(path: Path) -> str:
    """The text of a caption, without signs that cannot be seen.

    Raises:
        SampleError: ``caption_invalid``, or as of :func:`_read`.
    """
    data = _read(path, _MAX_CAPTION_BYTES)
    try:
        text = without_format_signs(decode_text(data)).strip()
    except UnicodeDecodeError as error:
        raise SampleError(
            "caption_invalid", f"{path}: wanted UTF-8, found {error}; save it as UTF-8"
        ) from error
    if sign := control_sign(text):
        raise SampleError("caption_invalid", f"{path}: wanted text, found the sign {sign}; mend it")
    return text
