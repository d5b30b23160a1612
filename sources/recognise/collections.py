"""Files of a folder that belong together: images, or maps of one kind, told apart by their names.

A file's path is read as ``<folders>/<before><key><after>.<suffix>``: folders and what is before and
after the key say of what kind a file is and to which split it belongs; the key is what differs from
sample to sample.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from sources.spread import evenly
from storage.samples.members import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Collection as Collection_
    from collections.abc import Iterable

SplitName = Literal["train", "validation", "test", ""]
"""Which split a folder is named after; "" if it is none."""

Hint = Literal[
    "image", "depth", "normals", "classes", "parts", "saliency", "boundaries", "results", ""
]
"""What a name says of the content; "" is nothing."""

MAP_SUFFIXES = (".npy", ".npz", ".exr")
_NEARLY_ALL = 0.8
SUFFIXES = frozenset({*IMAGE_SUFFIXES, *MAP_SUFFIXES})

_HINT_WORDS: dict[Hint, str] = {
    "depth": "depths?|depthmaps?|disparity|disp|distance|range|dpt",
    "normals": "normals?|norm|surface_?normals?",
    "parts": "(human_?)?parts",
    "saliency": "salien(t|cy)|sal|alpha|matte",
    "boundaries": "boundar(y|ies)|edges?|contours?|bdry",
    "classes": (
        "mask(e|s)?|labels?|annot(ation)?s?|seg(mentation)?s?|sem(antic|seg)?s?|class(es)?|"
        "segmentationclass|gt(fine)?|ground_?truths?|targets?|labelids|labeltrainids|ids|anno|"
        "segmaps?|y"
    ),
    "image": (
        "rgbs?|images?|imgs?|photos?|photographs?|colou?rs?|leftimg8bit|jpegimages|frames?|"
        "pictures?|pics?|inputs?|jpe?gs?|x|data|left|sat"
    ),
    "results": (
        "predictions?|results?|overlays?|vis(uali[sz]ations?)?|previews?|thumb(nail)?s?|"
        "instances?|instance_?ids|inst|panoptic"
    ),
}
_HINTS = {
    hint: re.compile(rf"(?:{words})(?:[_\-]?(?:mm|cm|m|png|raw|gt|{words}|\d+))*", re.IGNORECASE)
    for hint, words in _HINT_WORDS.items()
}
_ANY_WORD = "|".join(_HINT_WORDS.values())
_SPLITS: dict[SplitName, str] = {
    "train": "train(?:ing)?",
    "validation": "val(?:id(?:ation)?)?|dev",
    "test": "test(?:ing)?",
}
_SPLIT_FOLDERS = {
    split: re.compile(
        rf"(?:(?P<before>(?:{_ANY_WORD}))[_\-]?)?(?:{words})(?:[_\-]?(?P<after>(?:{_ANY_WORD})))?"
        r"(?:[_\-]?\d*)",
        re.IGNORECASE,
    )
    for split, words in _SPLITS.items()
}
_AFTER = re.compile(
    rf"(?P<key>.+?)(?P<after>[_\-.](?:{_ANY_WORD})(?:[_\-](?:{_ANY_WORD}|mm|cm|m|\d{{1,2}}))*)",
    re.IGNORECASE,
)
_BEFORE = re.compile(rf"(?P<before>(?:[a-z]+[_\-])?(?:{_ANY_WORD})[_\-])(?P<key>.+)", re.IGNORECASE)


def hint_of(text: str) -> Hint:
    """What a word in a name says of the content."""
    word = text.strip("_-. ")
    return next((hint for hint, words in _HINTS.items() if words.fullmatch(word)), "")


def split_of(folder: str) -> SplitName:
    """The split that the name of a folder says, also in ``trainannot`` or ``val_images``."""
    return next((split for split in _SPLIT_FOLDERS if _SPLIT_FOLDERS[split].fullmatch(folder)), "")


@dataclass
class Collection:
    """Files of one kind.

    Attributes:
        hint: What their names say of their content.
        patterns: Where they lie, by split: below the root, with ``{key}``.
        files: Path below the root by key, for each split.
        is_deep: Whether keys hold slashes.
    """

    hint: Hint
    patterns: dict[SplitName, str] = field(default_factory=dict)
    files: dict[SplitName, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    is_deep: bool = False

    @property
    def count(self) -> int:
        """All its files."""
        return sum(len(files) for files in self.files.values())

    @property
    def suffix(self) -> str:
        """The suffix of most files, in small letters."""
        return self._suffixes()[0]

    @property
    def other_suffixes(self) -> list[str]:
        """Those of the others."""
        return self._suffixes()[1:]

    def _suffixes(self) -> list[str]:
        paths = (path for files in self.files.values() for path in files.values())
        counts = Counter(PurePosixPath(path).suffix.lower() for path in paths)
        return [suffix for suffix, _ in counts.most_common()]

    @property
    def scene(self) -> str:
        """The folders above the first that says a kind or a split."""
        folders = PurePosixPath(next(iter(self.patterns.values()))).parts[:-1]
        return "/".join(takewhile(lambda part: not (hint_of(part) or split_of(part)), folders))

    @property
    def name(self) -> str:
        """Its patterns."""
        return ", ".join(dict.fromkeys(self.patterns.values()))

    def spread(self, limit: int) -> list[str]:
        """Paths of some files, evenly over all."""
        paths = [path for files in self.files.values() for path in files.values()]
        return list(evenly(paths, limit))


@dataclass(frozen=True, order=True)
class _Slot:
    """What a collection is known by, but for the split."""

    folder: str
    before: str
    after: str
    form: str


def collect(
    root: Path, files: Iterable[Path], *, suffixes: Collection_[str] = SUFFIXES
) -> list[Collection]:
    """Sort files of a folder into collections, the largest first.

    Args:
        files: Paths in the folder; those of other suffixes are left out.
    """
    paths = [PurePosixPath(file.relative_to(root).as_posix()) for file in files]
    paths = [path for path in paths if path.suffix.lower() in suffixes]
    mixed, twice = _mixed_folders(paths), _folders_of_twins(paths)
    found: dict[_Slot, Collection] = {}
    for path in paths:
        anchor = _anchor(path)
        inner = "/".join(path.parts[len(anchor) : -1])
        before, key, after = _parts_of_name(path.stem) if path.parent in mixed else ("", "", "")
        key = key or path.stem
        split = _split_of_folders(anchor)
        generic = "/".join(_without_split(part) for part in anchor)
        suffix = path.suffix.lower()
        form = suffix if path.parent in twice or suffix in MAP_SUFFIXES else ""
        slot = _Slot(generic, before, after, form)
        one = found.setdefault(slot, Collection(_hint_of(anchor, before, after)))
        full_key = f"{inner}/{key}" if inner else key
        one.is_deep |= bool(inner)
        one.files[split].setdefault(full_key, str(path))
        folder = "/".join([*anchor, ""])
        one.patterns.setdefault(split, f"{folder}{before}{{key}}{after}{path.suffix}")
    return sorted(found.values(), key=lambda one: (-one.count, one.name))


def _split_of_folders(anchor: tuple[str, ...]) -> SplitName:
    return next((name for part in reversed(anchor) if (name := split_of(part))), "")


def _anchor(path: PurePosixPath) -> tuple[str, ...]:
    """The folders of a path up to the last that says a kind or a split; else all of them.

    Folders below it, such as one for each scene, belong to the key.
    """
    folders = path.parts[:-1]
    telling = [i for i, part in enumerate(folders) if hint_of(part) or split_of(part)]
    return folders[: telling[-1] + 1] if telling else folders


def _mixed_folders(paths: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """Folders in whose names a kind is said before or after the key.

    Where all names of all folders say the same, as a camera's ``IMG_0001``, that is of the key.
    """
    slots: dict[PurePosixPath, Counter[tuple[str, str]]] = defaultdict(Counter)
    for path in paths:
        before, _, after = _parts_of_name(path.stem)
        slots[path.parent][before.lower(), after.lower()] += 1
    if len({slot for counts in slots.values() for slot in counts}) < 2:
        return set()
    return {
        folder
        for folder, counts in slots.items()
        if any(before or after for before, after in counts)
        and (_is_regular(counts) or _has_strays(counts))
    }


def _folders_of_twins(paths: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """Folders in which files differ by their suffix alone, as ``0001.jpg`` and ``0001.png``."""
    counts = Counter(path.with_suffix("") for path in paths)
    return {path.parent for path, count in counts.items() if count > 1}


def _is_regular(counts: Counter[tuple[str, str]]) -> bool:
    """Whether each way to name files is that of many, not of one file by chance."""
    return min(counts.values()) * 4 >= max(counts.values())


def _has_strays(counts: Counter[tuple[str, str]]) -> bool:
    """Whether nearly all names say the same kind of label, and a few files say another or none."""
    (before, after), most = counts.most_common(1)[0]
    kind = hint_of(after) or hint_of(before)
    return kind not in ("", "image", "results") and most >= _NEARLY_ALL * counts.total()


def _parts_of_name(stem: str) -> tuple[str, str, str]:
    """What is before the key, the key, and what is after it."""
    end = _AFTER.fullmatch(stem)
    key, after = (end["key"], end["after"]) if end else (stem, "")
    start = _BEFORE.fullmatch(key)
    return (start["before"], start["key"], after) if start else ("", key, after)


def _without_split(folder: str) -> str:
    """The name of a folder with ``{split}`` in place of a split."""
    for split, words in _SPLITS.items():
        if _SPLIT_FOLDERS[split].fullmatch(folder):
            return re.sub(words, "{split}", folder, count=1, flags=re.IGNORECASE)
    return folder


def _hint_of(anchor: tuple[str, ...], before: str, after: str) -> Hint:
    for text in (after, before, *reversed(anchor)):
        words = (text, *reversed(re.split(r"[_\-. ]+", text)))
        hints = [hint for word in words if (hint := hint_of(word))]
        # In "gtFine_color" and "depth_image" the other word says more.
        if hints := [hint for hint in hints if hint != "image"] or hints:
            return hints[0]
        if hint := _hint_beside_split(text):
            return hint
    return ""


def _hint_beside_split(folder: str) -> Hint:
    for words in _SPLIT_FOLDERS.values():
        if match := words.fullmatch(folder):
            return hint_of(match["after"] or match["before"] or "")
    return ""
