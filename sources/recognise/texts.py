"""Text files beside images: lists of splits, and names of classes."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from schemas.plain_files import read_plain
from schemas.text import decode_text
from sources.recognise.collections import SplitName, split_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LIST_SUFFIXES = (".txt", ".lst", ".csv", ".tsv")
_NAME_SUFFIXES = (".txt", ".csv", ".names", ".tsv")
_MAX_BYTES = 2**24
_MAX_NAMES_BYTES = 2**16
_MOST_CLASSES = 256
_LOOKED_AT = 200
_NUMBERED = re.compile(r"\s*(\d{1,3})\s*[\s:,;=]\s*([^\d\s].*)")
_CLASS_WORDS = re.compile(r"class|label|categor|names|objectinfo", re.IGNORECASE)


def split_lists(root: Path, files: Iterable[Path], keys: set[str]) -> dict[SplitName, str]:
    """Lists whose names say a split and whose lines name images.

    Args:
        keys: Keys of the images; a line counts if it begins with the key or a path to it.

    Returns:
        Path below the root by split; the list that fits best.
    """
    found: dict[SplitName, tuple[float, str]] = {}
    for file in files:
        if file.suffix.lower() not in _LIST_SUFFIXES:
            continue
        words = re.split(r"[_\-. ]+", file.stem)
        splits = {split for word in words if (split := split_of(word))}
        if len(splits) != 1:
            continue
        split = splits.pop()
        share = _share_of_keys(lines_of(file), keys)
        if share > max(0.5, found.get(split, (0.0, ""))[0]):
            found[split] = (share, file.relative_to(root).as_posix())
    return {split: path for split, (_, path) in found.items()}


def lines_of(file: Path, *, max_bytes: int = _MAX_BYTES) -> list[str]:
    """Lines with something in them; none if the file is too long or no text."""
    try:
        if file.stat().st_size > max_bytes:
            return []
        data = read_plain(file)
    except OSError:
        return []
    try:
        lines = decode_text(data).splitlines()
    except UnicodeDecodeError:
        return []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def keys_in(line: str) -> list[str]:
    """What a line may mean by its first column: the text, and the path without its suffix."""
    first = re.split(r"[\t,]| {1,}", line.replace("\\", "/").strip("\"'"))[0]
    path = PurePosixPath(first)
    return [line, first, str(path.with_suffix("")), path.stem, path.name]


def class_names_in(files: Iterable[Path]) -> tuple[dict[int, str], str]:
    """Names of classes by stored id, and the file that tells them; none if no file does."""
    candidates = [
        file
        for file in files
        if file.suffix.lower() in _NAME_SUFFIXES and _CLASS_WORDS.search(file.name)
    ]
    for file in candidates:
        lines = lines_of(file, max_bytes=_MAX_NAMES_BYTES)
        if names := _names_of(lines):
            return names, file.name
    return {}, ""


def _names_of(lines: Sequence[str]) -> dict[int, str]:
    if not 2 <= len(lines) <= _MOST_CLASSES:
        return {}
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    numbered = {int(match[1]): match[2].strip() for match in matches if match}
    if len(numbered) == len(lines) or (len(numbered) >= 2 and len(numbered) == len(lines) - 1):
        return numbered
    if not numbered and all(re.fullmatch(r"[^\d\W][\w\- ,/]*", line) for line in lines):
        return dict(enumerate(lines))
    return {}


def _share_of_keys(lines: Sequence[str], keys: set[str]) -> float:
    step = max(len(lines) // _LOOKED_AT, 1)
    some = lines[::step]
    stems = {PurePosixPath(key).name for key in keys}
    known = [any(each in keys or each in stems for each in keys_in(line)) for line in some]
    return sum(known) / len(known) if known else 0.0
