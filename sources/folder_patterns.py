"""Patterns of a description: where the files of a sample lie."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from schemas.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Home = Literal["train", "validation", "test"]
"""The split that a sample was listed for; one that is held out keeps the home it had."""

OnePattern = str
SomePatterns = Annotated[tuple[OnePattern, ...], Field(min_length=1)]
Patterns = OnePattern | SomePatterns | dict[Home, OnePattern | SomePatterns]
"""One pattern; several, of which the first that leads to a file counts; or those of each split."""

SPLIT_FOLDERS: Mapping[Home, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
"""What ``{split}`` may stand for, unless ``splits.*.folder`` says it."""

_SIGN = re.compile(r"\{(key|split)\}")


def patterns_of(patterns: Patterns, home: Home) -> tuple[OnePattern, ...]:
    """Patterns of a split, in the order they are tried; none if only other splits have some."""
    chosen = patterns.get(home, ()) if isinstance(patterns, dict) else patterns
    return (chosen,) if isinstance(chosen, str) else chosen


def all_patterns(patterns: Patterns | None) -> tuple[OnePattern, ...]:
    """Patterns of all splits."""
    if patterns is None:
        return ()
    homes = tuple(patterns) if isinstance(patterns, dict) else ("train",)
    return tuple(each for home in homes for each in patterns_of(patterns, home))


def tells_splits_apart(patterns: Patterns) -> bool:
    """Whether equal keys of two splits are different samples."""
    differs = isinstance(patterns, dict) and len({str(each) for each in patterns.values()}) > 1
    return differs or any("{split}" in each for each in all_patterns(patterns))


def expect_patterns(patterns: Patterns | None, field: str) -> None:
    """Check that each pattern holds the key and stays below the root.

    Raises:
        ValueError: If one does not.
    """
    for pattern in all_patterns(patterns):
        if "{key}" not in pattern:
            raise ValueError(f"{field} = {pattern!r} has to hold {{key}} once or more")
        if leads_out(pattern):
            raise ValueError(f"{field} = {pattern!r} leads out of root; move root up instead")


def fill(pattern: OnePattern, key: str, split: str) -> str:
    """Put a key and the name of a split's folder into a pattern."""
    signs = {"key": key, "split": split}
    return _SIGN.sub(lambda sign: signs[sign.group(1)], pattern)


def fixed_folder(pattern: OnePattern) -> str:
    """The folders at the start of a pattern that are the same for all keys; "" is the root."""
    before = pattern.partition("{key}")[0]
    return before.rpartition("/")[0]


def levels_of(pattern: OnePattern) -> int:
    """Levels of folders from :func:`fixed_folder` down to the files."""
    return pattern.count("/") - fixed_folder(pattern).count("/") + (not fixed_folder(pattern))


def regex_of(pattern: OnePattern, *, is_deep: bool = False, suffixes: str = "") -> re.Pattern[str]:
    """What finds the key, as its group ``key``, in a path below the root.

    Args:
        pattern: Without ``{split}``.
        is_deep: Whether a key may hold slashes.
        suffixes: Regular expression to take in place of the pattern's suffix.
    """
    suffix = PurePosixPath(pattern).suffix if suffixes else ""
    stem = pattern.removesuffix(suffix)
    first, *others = [re.escape(part) for part in stem.split("{key}")]
    key = r"(?P<key>.+)" if is_deep else r"(?P<key>[^/]+)"
    return re.compile(first + key + "(?P=key)".join(others) + suffixes, re.DOTALL)


def folder_of_split(patterns: Patterns, home: Home, named: str | None, root: Path) -> str:
    """What stands for ``{split}``: as named, else the usual name of a folder that is there.

    Raises:
        SourceError: If there is no such folder.
    """
    with_split = [each for each in patterns_of(patterns, home) if "{split}" in each]
    if named is not None or not with_split:
        return named or home
    usual = SPLIT_FOLDERS[home]
    for name in usual:
        for pattern in with_split:
            before, _, after = pattern.partition("{split}")
            folder = fixed_folder(before + name + after.partition("/")[0] + "/{key}")
            if "{key}" in before or (root / folder).is_dir():
                return name
    raise SourceError(
        f"image = {with_split[0]}: found none of {', '.join(usual)} for {{split}} below {root}; "
        f"say splits.{home}.folder"
    )


def leads_out(path: str) -> bool:
    """Whether a path in a description is absolute or climbs, and so may leave the root."""
    return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts
