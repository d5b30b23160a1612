"""Which samples of a user's folder belong to which split."""

from __future__ import annotations

import glob
import re
from collections import Counter
from typing import TYPE_CHECKING

from schemas.errors import SourceError
from sources.folder_description import leads_out

if TYPE_CHECKING:
    from pathlib import Path

    from sources.folder_description import FolderDescription, HoldOut, Keys
    from sources.protocol import Split

Names = tuple[str, ...]
"""Texts to put for ``{key}`` in the patterns."""


def split_names(description: FolderDescription, root: Path, file: Path) -> dict[Split, Names]:
    """Find the names of all splits.

    ``test`` is held out of ``train`` before ``validation`` is, so the three never overlap.

    Raises:
        SourceError: If a list is missing or empty, a name comes twice, or a sample is in two
            splits.
    """
    splits = description.splits
    train = _listed(splits.train, "train", description, root, file)
    found: dict[Split, Names] = {}
    others: dict[Split, Keys | None] = {"test": splits.test, "validation": splits.validation}
    for split, keys in others.items():
        if keys is None:
            found[split] = ()
        elif keys.hold_out:
            train, found[split] = _hold_out(train, keys.hold_out)
        else:
            found[split] = _listed(keys, split, description, root, file)
    found["train"] = train
    _expect_disjoint(found, file)
    return found


def sample_key(name: str) -> str:
    """Key of the sample of a name: a tar reads dots and slashes as its own signs.

    Letters and digits of any script, ``_`` and ``-`` stay; all other signs become ``_``, so two
    names may get one key: whoever collects keys must refuse that.
    """
    return re.sub(r"[^\w-]", "_", name)


def spread(names: Names, limit: int | None) -> Names:
    """Take ``limit`` names, evenly spaced, in order; all of them if there is no limit.

    Neighbours in a list are often frames of one scene: evenly spaced ones differ most.
    """
    if limit is None or limit >= len(names):
        return names
    return tuple(names[i * len(names) // limit] for i in range(limit))


def _hold_out(names: Names, rule: HoldOut) -> tuple[Names, Names]:
    def is_held_out(index: int) -> bool:
        return (index // rule.block) % rule.every == rule.every - 1

    kept = tuple(name for i, name in enumerate(names) if not is_held_out(i))
    held_out = tuple(name for i, name in enumerate(names) if is_held_out(i))
    return kept, held_out


def _listed(
    keys: Keys, split: Split, description: FolderDescription, root: Path, file: Path
) -> Names:
    field = f"{file}: splits.{split}"
    if keys.list is not None:
        if leads_out(keys.list):
            raise SourceError(f"{field}.list = {keys.list}: leads out of {root}; put it below")
        names = _read_list(root / keys.list, f"{field}.list = {keys.list}")
    elif keys.range is not None:
        first, last = keys.range
        names = tuple(f"{number:0{keys.digits}d}" for number in range(first, last + 1))
    else:
        names = _matching(description.image, root)
    if not names:
        raise SourceError(
            f"{field}: no key found in {root}; correct the list, range or image pattern"
        )
    outside = [name for name in names if leads_out(description.image.replace("{key}", name))]
    if outside:
        raise SourceError(
            f"{field}: {outside[0]!r:.200} leads out of {root}; list names below it, without '..'"
        )
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise SourceError(f"{field}: {name!r} comes more than once; list each key once")
    return names


def _read_list(path: Path, field: str) -> Names:
    if not path.is_file():
        raise SourceError(f"{field}: {path}: no such file; it has to hold a key a line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{field}: {path}: wanted text in UTF-8, found {error}; save it as UTF-8"
        ) from error
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _matching(pattern: str, root: Path) -> Names:
    before, after = (root / pattern).as_posix().split("{key}")
    paths = sorted(
        path.as_posix() for path in root.glob("*".join(map(glob.escape, pattern.split("{key}"))))
    )
    return tuple(path[len(before) : len(path) - len(after)] for path in paths)


def _expect_disjoint(found: dict[Split, Names], file: Path) -> None:
    seen: dict[str, Split] = {}
    for split, names in found.items():
        for name in names:
            if name in seen:
                raise SourceError(
                    f"{file}: splits: {name!r} is in both {seen[name]} and {split}; "
                    "a sample that is scored must not be learnt from: take it out of one"
                )
            seen[name] = split
