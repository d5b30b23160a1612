"""The samples of a folder whose description lists none: every file of the image pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.text import same_name
from sources.folder_files import FolderFiles, Name
from sources.folder_listing import (
    TAKEN,
    UNFIT,
    WITHOUT_LABELS,
    Unused,
    is_image_name,
    list_files,
)
from sources.folder_patterns import fixed_folder, levels_of, regex_of
from storage.samples.members import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import re
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from sources.folder_patterns import Home

_ANY_SUFFIX = f"(?i:{'|'.join(suffix.replace('.', '[.]') for suffix in sorted(IMAGE_SUFFIXES))})"


def find_names(
    files: FolderFiles,
    home: Home,
    unused: Unused,
    *,
    is_deep: bool = False,
    known: Collection[Path] = (),
) -> tuple[Name, ...]:
    """Names of all files that match an image pattern, sorted by path.

    Pictures of another suffix, or of the same in capitals, are taken too if all their labels are
    there: so a mask that lies beside its photograph does not become a photograph.

    Args:
        unused: Gets the files in the same folders that are neither images nor labels.
        is_deep: Search the folders below too; keys then hold slashes.
        known: Files that are neither, such as lists.
    """
    patterns = files.patterns("image", home)
    exact = [regex_of(each, is_deep=is_deep) for each in patterns]
    loose = [
        regex_of(each, is_deep=is_deep, suffixes=_ANY_SUFFIX)
        for each in patterns
        if is_image_name(each)
    ]
    labels = [regex_of(each, is_deep=True) for each in files.patterns_of_labels(home)]
    found: dict[str, str] = {}
    spare: list[tuple[str, str]] = []
    for path in _paths(files, patterns, unused, is_deep=is_deep, known=known):
        if (key := _key_in(path, exact)) is not None:
            found.setdefault(key, path)
        elif any(each.fullmatch(path) for each in labels):
            continue
        elif (key := _key_in(path, loose)) is not None:
            spare.append((key, path))
        elif is_image_name(path):
            unused.add(UNFIT, files.root / path)
        else:
            unused.add_file(files.root / path)
    found = {key: path for key, path in found.items() if not _is_label(key, path, labels, found)}
    taken = {same_name(key) for key in found}
    for key, path in spare:
        if same_name(key) in taken:
            unused.add(TAKEN, files.root / path)
        elif files.has_labels(Name(key, home)):
            taken.add(same_name(key))
            found[key] = path
        else:
            unused.add(WITHOUT_LABELS, files.root / path)
    return tuple(Name(key, home) for key in sorted(found, key=lambda key: found[key]))


def _paths(
    files: FolderFiles,
    patterns: Sequence[str],
    unused: Unused,
    *,
    is_deep: bool,
    known: Collection[Path],
) -> list[str]:
    """All files where the patterns lead, below the root, sorted."""
    levels: dict[str, int] = {}
    for pattern in patterns:
        folder = fixed_folder(pattern)
        levels[folder] = max(levels.get(folder, 0), levels_of(pattern))
    found = {
        file
        for folder, depth in levels.items()
        for file in list_files(files.root / folder, unused, levels=None if is_deep else depth)
    }
    return sorted(file.relative_to(files.root).as_posix() for file in found - set(known))


def _is_label(
    key: str, path: str, labels: Sequence[re.Pattern[str]], found: Collection[str]
) -> bool:
    """Whether an image's pattern found the label of another: ``a_mask.png`` beside ``a.png``."""
    matches = (pattern.fullmatch(path) for pattern in labels)
    return any(match["key"] != key and match["key"] in found for match in matches if match)


def _key_in(path: str, patterns: Sequence[re.Pattern[str]]) -> str | None:
    matches = (pattern.fullmatch(path) for pattern in patterns)
    return next((match["key"] for match in matches if match), None)
