"""A folder of somebody else: what it holds, and the description that follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemas.errors import SourceError
from schemas.sample import TASKS, Task
from schemas.text import number_of
from sources.folder_listing import Unused, list_files
from sources.layouts.registry import recognise
from sources.recognise.collections import Collection, SplitName, collect
from sources.recognise.contents import Content, content_of
from sources.recognise.texts import class_names_in, split_lists

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MOST_FILES = 500_000
_MOST_COLLECTIONS = 40
_FEW_IMAGES = 40
_LEAST_COVER = 0.5
_LEAST_LABELS = 2
_MOSTLY = 0.9
_LISTED = 3
_PLAIN_NAMES = ("data", "dataset", "train", "images")

Understood = tuple[Collection, Content]


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What was understood of a folder.

    Attributes:
        root: The folder.
        found: All collections with what they hold; the images first, then the labels.
        image: The images.
        labels: Collection by task.
        splits: Section ``splits`` of the description.
        said: What was decided besides, a sentence each.
        class_names: Names of the classes of ``semseg`` in order, if known.
        captions: Pattern of text files, if there are any.
    """

    root: Path
    found: Sequence[Understood]
    image: Understood
    labels: dict[Task, Understood]
    splits: dict[str, Any]
    said: Sequence[str]
    class_names: tuple[str, ...] = ()
    captions: str = ""
    homes: dict[str, SplitName] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name for logs: the folder's, with that of the folder above if it says nothing."""
        is_plain = self.root.name.lower() in _PLAIN_NAMES
        parts = (self.root.parent.name, self.root.name) if is_plain else (self.root.name,)
        return re.sub(r"[^\w-]+", "_", "_".join(filter(None, parts))) or "folder"

    @property
    def num_training(self) -> int:
        """Labelled images of the train split, held-out ones included."""
        files = self.image[0].files
        return len(files.get("train") or {}) or _num_labelled(self.image[0], self.labels)

    def uses(self, collection: Collection) -> bool:
        """Whether a collection is the images or the labels of a task."""
        return any(collection is one for one, _ in (self.image, *self.labels.values()))

    def description(self, *, size: tuple[int, int]) -> dict[str, Any]:
        """The description of the folder, for :func:`sources.folder_description.load_description`.

        Args:
            size: Height and width to bring images to.
        """
        tree: dict[str, Any] = {
            "name": self.name,
            "root": str(self.root),
            "image": self._patterns(self.image[0]),
        }
        if self.captions:
            tree["caption"] = self.captions
        tree["labels"] = {
            task: {"pattern": self._patterns(collection), **content.fields}
            for task, (collection, content) in self.labels.items()
        }
        return {**tree, "splits": self.splits, "size": list(size)}

    def _patterns(self, collection: Collection) -> str | dict[str, str]:
        if not self.homes:
            return next(iter(collection.patterns.values()))
        return {home: collection.patterns[split] for home, split in self.homes.items()}


def recognise_folder(root: Path) -> Recognised:
    """Look through a folder.

    Raises:
        SourceError: If it is none, holds too much, or nothing to learn from.
    """
    if not root.is_dir():
        what = "a file; name the folder that it is in" if root.exists() else "no such folder"
        raise SourceError(f"{root}: {what}")
    unused = Unused()
    files = list_files(root, unused)
    if len(files) > _MOST_FILES:
        raise SourceError(f"{root}: {len(files)} files; name the folder of one data set below it")
    collections = collect(root, files)[:_MOST_COLLECTIONS]
    names, names_file = class_names_in(files)
    found = [(one, content_of(root, one, class_names=names)) for one in collections]
    image = _images_of(root, found)
    labels = _labels_of(found, image[0])
    if not labels:
        seen = "; ".join(f"{one.name}: {content.said}" for one, content in found)
        raise SourceError(
            f"{root}: no label maps that belong to the images {image[0].name}; there is: {seen}. "
            "Labels lie in folders beside the images, or beside each image, under the image's own "
            "name; docs/howto-your-own-folder.md shows how to describe any other folder"
        )
    _expect_one_scene(root, found)
    said = [text] if (text := unused.describe()) else []
    if layouts := recognise(root):
        said.append(
            f"this looks like the published data set {' or '.join(layouts)}, which "
            f"jobs/prepare.py {layouts[0]} --root {root} converts as the literature reads it"
        )
    said += _left_out(found, image, labels)
    if names_file and "semseg" in labels:
        said.append(f"names of the classes are those of {names_file}")
    splits, homes, more = _splits_of(root, files, image[0], labels)
    if unlabelled := _unlabelled(image[0], labels):
        said.append(
            f"{unlabelled} of {image[0].count} images lack the label of a task ("
            f"{', '.join(labels)}), {image[0].count - unlabelled} of {image[0].count} images have "
            f"{'one' if len(labels) == 1 else 'all'}: the others are left out (skip_unlabelled)"
        )
        splits = {
            split: keys if "hold_out" in keys else {**keys, "skip_unlabelled": True}
            for split, keys in splits.items()
        }
    for task, (collection, _) in labels.items():
        if alone := len(_keys_of(collection) - _keys_of(image[0])):
            said.append(f"{number_of(alone, 'label')} of {task} without an image: not used")
    rest = [each for each in found if each[0] is not image[0]]
    used = [labels[task] for task in TASKS if task in labels]
    others = [each for each in rest if all(each[0] is not one for one, _ in used)]
    return Recognised(
        root=root,
        found=[image, *used, *others],
        image=image,
        labels={task: labels[task] for task in TASKS if task in labels},
        splits=splits,
        said=[*said, *more],
        class_names=_names_in_order(names, labels),
        homes=homes,
        captions=_captions_of(root, files, image[0]) if not homes else "",
    )


def _expect_one_scene(root: Path, found: Sequence[Understood]) -> None:
    """Refuse scenes that have their own folders of images and of labels: no pattern names both.

    Raises:
        SourceError: If there are several.
    """
    with_images = {one.scene for one, content in found if content.what == "image"}
    with_labels = {one.scene for one, content in found if content.what == "label"}
    scenes = sorted(with_images & with_labels)
    if len(scenes) > 1:
        raise SourceError(
            f"{root}: images and labels lie together in {len(scenes)} folders, such as "
            f"{scenes[0] or '.'} and {scenes[1]}; a description has one pattern for all: put the "
            "folders of scenes below those of the kinds, as images/SCENE/… and depth/SCENE/… "
            f"(links are followed), or name one: jobs/new_run.py {root / scenes[1]}"
        )


def _captions_of(root: Path, files: Sequence[Path], image: Collection) -> str:
    """Pattern of text files of which most images have one."""
    keys = _keys_of(image)
    for texts in collect(root, files, suffixes=(".txt", ".caption")):
        if len(keys & _keys_of(texts)) >= _MOSTLY * len(keys):
            return next(iter(texts.patterns.values()))
    return ""


def _keys_of(collection: Collection) -> set[tuple[SplitName, str]]:
    return {(split, key) for split, keys in collection.files.items() for key in keys}


def _images_of(root: Path, found: Sequence[Understood]) -> Understood:
    images = [each for each in found if each[1].what == "image"]
    if not images:
        seen = "; ".join(f"{one.name}: {content.said}" for one, content in found)
        raise SourceError(f"{root}: no photographs; there is: {seen or 'no picture'}")
    others = [_keys_of(one) for one, content in found if content.what == "label"]

    def rank(each: Understood) -> tuple[int, bool, int]:
        keys = _keys_of(each[0])
        shared = sum(len(keys & other) for other in others)
        return shared, each[0].hint == "image", each[0].count

    return max((each for each in images if each[0].hint != "results"), key=rank, default=images[0])


def _labels_of(found: Sequence[Understood], image: Collection) -> dict[Task, Understood]:
    """For each task the collection that covers most images.

    If none covers half of them, that one which covers most is taken alone: with several, only
    images that have all would be learnt from.
    """
    keys = _keys_of(image)
    fewer: list[tuple[int, Task, Understood]] = []
    best: dict[Task, tuple[tuple[int, bool], Understood]] = {}
    for each in found:
        collection, content = each
        if content.what != "label" or content.task is None or collection.hint == "results":
            continue
        shared = len(keys & _keys_of(collection))
        if _LEAST_LABELS <= shared < _LEAST_COVER * len(keys):
            is_own = shared >= _MOSTLY * collection.count
            fewer += [(shared, content.task, each)] if is_own else []
            continue
        rank = (shared, "colors" not in content.fields)
        known = best.get(content.task)
        if shared >= _LEAST_COVER * len(keys) and (known is None or rank > known[0]):
            best[content.task] = (rank, each)
    if fewer and not best:
        _, task, each = max(fewer, key=lambda one: one[0])
        return {task: each}
    return {task: each for task, (_, each) in best.items()}


def _left_out(
    found: Sequence[Understood], image: Understood, labels: dict[Task, Understood]
) -> list[str]:
    used = [image[0], *(one for one, _ in labels.values())]
    texts = []
    for collection, content in found:
        if any(collection is one for one in used):
            continue
        if followed := next((one for one in used if _is_stray(collection, one)), None):
            paths = collection.spread(_LISTED)
            more = ", …" if collection.count > len(paths) else ""
            number = f"{collection.count} file{'s do' if collection.count > 1 else ' does'}"
            listed = ", ".join(paths) + more
            texts.append(f"{number} not follow {followed.name}: {listed}; not used")
            continue
        why = content.said
        if content.what == "image":
            why = "other photographs"
        elif content.what == "label" and content.task in labels:
            why = f"also looks like {content.task}, but {labels[content.task][0].name} is taken"
        elif content.what == "label":
            why = f"looks like {content.task}, but covers too few of the images"
        texts.append(f"{collection.name} is left out: {why}")
    return texts


def _is_stray(collection: Collection, used: Collection) -> bool:
    """Whether these are a few files in the folders of many that are named in another way."""
    is_few = collection.count * 4 < used.count
    folders = {pattern.rpartition("/")[0] for pattern in used.patterns.values()}
    return is_few and all(p.rpartition("/")[0] in folders for p in collection.patterns.values())


def _unlabelled(image: Collection, labels: dict[Task, Understood]) -> int:
    """How many images lack the label of a task."""
    keys = _keys_of(image)
    labelled = [_keys_of(one) for one, _ in labels.values()]
    return sum(any(key not in those for those in labelled) for key in keys)


def _num_labelled(image: Collection, labels: dict[Task, Understood]) -> int:
    return image.count - _unlabelled(image, labels)


def _names_in_order(names: dict[int, str], labels: dict[Task, Understood]) -> tuple[str, ...]:
    if "semseg" not in labels or not names:
        return ()
    fields = labels["semseg"][1].fields
    offset = fields.get("id_offset", 0)
    stored = [class_id - offset for class_id in range(fields["num_classes"])]
    return tuple(names[id_] for id_ in stored) if all(id_ in names for id_ in stored) else ()


def _splits_of(
    root: Path, files: Sequence[Path], image: Collection, labels: dict[Task, Understood]
) -> tuple[dict[str, Any], dict[str, SplitName], list[str]]:
    """Section ``splits``, the split whose files each one reads, and what was decided."""
    every: dict[str, Any] = {"all": "deep"} if image.is_deep else {"all": True}
    shared = [
        split
        for split in image.patterns
        if split and all(split in one.patterns for one, _ in labels.values())
    ]
    if "train" in shared:
        return _by_folders(shared, every, image)
    keys = {key for part in image.files.values() for key in part}
    lists = split_lists(root, files, keys)
    if "train" in lists:
        return _by_lists(lists, len(keys))
    held_out, said = _hold_out(_num_labelled(image, labels), ("test", "validation"))
    return {"train": every, **held_out}, {}, said


def _by_folders(
    shared: Sequence[SplitName], every: dict[str, Any], image: Collection
) -> tuple[dict[str, Any], dict[str, SplitName], list[str]]:
    homes: dict[str, SplitName] = {split: split for split in ("train", "validation", "test")}
    homes = {home: split for home, split in homes.items() if split in shared}
    said = [f"splits are those of the folders: {', '.join(homes)}"]
    if "test" not in homes and "validation" in homes:
        homes["test"] = homes.pop("validation")
        said = ["there is no test folder: the validation folder is scored as test"]
    splits: dict[str, Any] = {home: dict(every) for home in homes}
    missing = [split for split in ("test", "validation") if split not in homes]
    held_out, more = _hold_out(len(image.files["train"]), missing)
    return {**splits, **held_out}, homes, [*said, *more]


def _by_lists(
    lists: dict[SplitName, str], count: int
) -> tuple[dict[str, Any], dict[str, SplitName], list[str]]:
    found: dict[str, str] = {str(split): path for split, path in lists.items()}
    said = [f"splits are those of {', '.join(found.values())}"]
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
        said.append("there is no test list: that of validation is scored as test")
    splits: dict[str, Any] = {split: {"list": path} for split, path in found.items()}
    missing = [split for split in ("test", "validation") if split not in found]
    held_out, more = _hold_out(count, missing)
    return {**splits, **held_out}, {}, [*said, *more]


def _hold_out(count: int, splits: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Rules that set a part of the training images aside: by hash, or of few images by place."""
    if not splits:
        return {}, []
    names = " and ".join(splits)
    if count < _FEW_IMAGES:
        every = {"test": max(min(4, count), 2), "validation": 3}
        rules: dict[str, Any] = {split: {"hold_out": {"every": every[split]}} for split in splits}
        return rules, [f"{names}: every third or fourth image is held out of train"]
    share = {"test": 0.2, "validation": 0.1}
    rules = {split: {"hold_out": {"fraction": share[split]}} for split in splits}
    return rules, [
        f"{names}: held out of train by a hash of the key. If neighbours are frames of one film, "
        "say hold_out: {every: 5, block: 16}"
    ]
