"""Which samples of a user's folder belong to which split."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from schemas.errors import SourceError
from schemas.text import sample_key
from sources.folder_files import Name
from sources.folder_listing import WITHOUT_LABELS
from sources.folder_lists import read_list
from sources.folder_matching import find_names
from sources.folder_patterns import leads_out

if TYPE_CHECKING:
    from pathlib import Path

    from sources.folder_description import FolderDescription, HoldOut, Keys
    from sources.folder_files import FolderFiles
    from sources.folder_listing import Unused
    from sources.folder_patterns import Home
    from sources.protocol import Split

Names = tuple[Name, ...]


def split_names(
    description: FolderDescription, files: FolderFiles, file: Path, unused: Unused
) -> dict[Split, Names]:
    """Find the names of all splits.

    ``test`` is held out of ``train`` before ``validation`` is, so the three never overlap. Where
    ``train`` is all files of the pattern, it is those that no other list names.

    Args:
        file: The description, for messages.
        unused: Gets the files beside the samples that are not used.

    Raises:
        SourceError: If a list is missing or empty, a name comes twice, or a sample is in two
            splits.
    """
    finder = _Finder(description, files, file, unused)
    splits = description.splits
    train = finder.listed(splits.train, "train")
    found: dict[Split, Names] = {}
    others: dict[Home, Keys | None] = {"test": splits.test, "validation": splits.validation}
    for home, keys in others.items():
        if keys is None:
            found[home] = ()
        elif keys.hold_out:
            train, found[home] = _hold_out(train, keys.hold_out, home)
        else:
            found[home] = finder.listed(keys, home)
            if splits.train.all and not keys.all:
                scored = {key_of(name, files) for name in found[home]}
                train = tuple(name for name in train if key_of(name, files) not in scored)
    found["train"] = train
    _expect_disjoint(found, files, file)
    return found


def key_of(name: Name, files: FolderFiles) -> str:
    """Key of a sample; where splits have folders of their own, it begins with the split."""
    key = sample_key(name.text)
    return f"{name.home}_{key}" if files.is_apart else key


def _hold_out(names: Names, rule: HoldOut, home: Home) -> tuple[Names, Names]:
    def is_held_out(index: int) -> bool:
        if rule.fraction is not None:
            return _position(names[index], rule, home) < rule.fraction
        every = rule.every or 1
        return (index // rule.block) % every == every - 1

    kept = tuple(name for i, name in enumerate(names) if not is_held_out(i))
    held_out = tuple(name for i, name in enumerate(names) if is_held_out(i))
    return kept, held_out


def _position(name: Name, rule: HoldOut, home: Home) -> float:
    """Where a key lies between 0 and 1, whatever other keys there are; another place each split."""
    text = unicodedata.normalize("NFC", name.text)
    group = text.rpartition("/")[0] if rule.together == "folder" else text
    digest = hashlib.blake2b(f"{home}/{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


class _Finder:
    """Finds the names of a split as its part of the description says."""

    def __init__(
        self, description: FolderDescription, files: FolderFiles, file: Path, unused: Unused
    ) -> None:
        self._description = description
        self._files = files
        self._file = file
        self._unused = unused

    def listed(self, keys: Keys, home: Home) -> Names:
        """Names of a split that is not held out.

        Raises:
            SourceError: If there are none, or one comes twice or leads out of the root.
        """
        field = f"{self._file}: splits.{home}"
        names = self._find(keys, home, field)
        if keys.skip_unlabelled:
            names = self._labelled(names)
        if not names:
            there = self._unused.describe()
            raise SourceError(
                f"{field}: no key found in {self._files.root}"
                + (f" ({there})" if there else "")
                + "; correct the list, range or image pattern"
            )
        for name in names:
            self._expect_inside(name, field)
        key, count = Counter(unicodedata.normalize("NFC", each.text) for each in names).most_common(
            1
        )[0]
        if count > 1:
            raise SourceError(f"{field}: {key!r} comes more than once; list each key once")
        return names

    def _labelled(self, names: Names) -> Names:
        kept = []
        for name in names:
            if self._files.has_labels(name):
                kept.append(name)
            else:
                self._unused.add(WITHOUT_LABELS, self._files.image(name))
        return tuple(kept)

    def _find(self, keys: Keys, home: Home, field: str) -> Names:
        if keys.list is not None:
            if leads_out(keys.list):
                raise SourceError(
                    f"{field}.list = {keys.list}: leads out of {self._files.root}; put it below"
                )
            tasks = self._description.labels.described()
            return read_list(keys.list, keys.columns, tasks, self._files, home, field=field)
        if keys.range is not None:
            first, last = keys.range
            numbers = range(first, last + 1)
            return tuple(Name(f"{number:0{keys.digits}d}", home) for number in numbers)
        lists = [each.list for each in self._description.splits.listed().values() if each.list]
        known = {self._file.resolve(), *(self._files.root / each for each in lists)}
        return find_names(self._files, home, self._unused, is_deep=keys.all == "deep", known=known)

    def _expect_inside(self, name: Name, field: str) -> None:
        outside = [path for path in self._files.paths("image", name) if leads_out(path)]
        if outside or any(leads_out(path) for path in name.paths.values()):
            raise SourceError(
                f"{field}: {name.text!r:.200} leads out of {self._files.root}; list names below "
                "it, without '..'"
            )


def _expect_disjoint(found: dict[Split, Names], files: FolderFiles, file: Path) -> None:
    seen: dict[str, Split] = {}
    for split, names in found.items():
        for name in names:
            key = key_of(name, files)
            if key in seen and seen[key] != split:
                raise SourceError(
                    f"{file}: splits: {name.text!r} is in both {seen[key]} and {split}; "
                    "a sample that is scored must not be learnt from: take it out of one"
                )
            seen[key] = split
