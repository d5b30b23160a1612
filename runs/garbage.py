"""Decide what in a run directory nobody needs any more: a pure function of what lies there."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from schemas.run_layout import (
    CHECKPOINTS_DIR,
    PARTIAL_DIR,
    SERIES_DIRS,
    SHARDS_DIR,
    SUSPECTS_DIR,
    parse_weights_dir,
    unit_of_file,
)
from schemas.weights import SERIES, WEIGHTS_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from schemas.config import RunConfig
    from schemas.weights import Series
    from storage.files.inventory import StoredFile
    from storage.manifests.unit_outcome import UnitCommit

Kind = Literal[
    "leftover",
    "orphan_tar",
    "superseded_labels",
    "compacted_manifest",
    "old_weights",
    "old_checkpoint",
]

WARM_UP_VERSION = 0
_STEP_DIR = re.compile(r"\d{8}|checkpoint_.+")
_COMPLETE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What is kept.

    Attributes:
        before: Only what was replaced or written before this moment, by the store's clock, goes.
        last_round: Last round of the plan.
        keep_rounds: Rounds whose labels stay, newer ones or not.
        keep_versions: Newest versions of each series of weights that stay.
        keep_checkpoints: Newest checkpoints of each stage that stay.
    """

    before: datetime
    last_round: int
    keep_rounds: frozenset[int] = frozenset()
    keep_versions: int = 3
    keep_checkpoints: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContent:
    """What lies in a run.

    Attributes:
        files: Every object.
        commits: The newest revision of every unit, read after the files were listed.
        committed_at: When a unit's newest manifest was written; None if that is not known.
        replaced_manifests: Units' manifests that a compacted file replaces, in the order in which
            they may go, and when that file was written.
        has_torn: Whether a manifest could not be read: then no tar can be said to be unnamed.
        pinned_names: Checkpoint folders that the trainer's own records name.
    """

    files: Sequence[StoredFile]
    commits: Sequence[UnitCommit]
    committed_at: Mapping[str, datetime | None]
    replaced_manifests: Sequence[tuple[str, datetime | None]] = ()
    has_torn: bool = False
    pinned_names: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """Something to remove, as a whole.

    Attributes:
        kind: Why.
        paths: Objects, in the order in which they go.
        size_bytes: Their size.
        commit: ``superseded_labels``: the newest revision of the unit whose rows lose their bytes.
        version: ``old_weights``: the version.
        series: ``old_weights``: its series.
    """

    kind: Kind
    paths: tuple[str, ...]
    size_bytes: int
    commit: UnitCommit | None = field(default=None, repr=False)
    version: int = -1
    series: Series = "creation"


def limits_of(
    config: RunConfig,
    *,
    before: datetime,
    keep_rounds: Sequence[int] = (),
    keep_versions: int = 3,
    keep_checkpoints: int = 2,
) -> Limits:
    """Limits of a run: the round that its training is pinned to stays, whatever is asked."""
    pinned = config.training.synthetic_round
    return Limits(
        before=before,
        last_round=config.plan.rounds - 1 if config.plan.images == "reuse" else 0,
        keep_rounds=frozenset([*keep_rounds, *([] if pinned is None else [pinned])]),
        keep_versions=keep_versions,
        keep_checkpoints=keep_checkpoints,
    )


def find_garbage(content: RunContent, limits: Limits) -> list[Removal]:
    """List what can be removed, in the order in which it may be.

    Superseded labels come first: their rows are marked before their bytes go. The units' own
    manifests that a compacted file replaces go next to last in the run's reading order.

    Returns:
        Removals; those of one kind lie together.
    """
    return [
        *superseded_labels(content, limits),
        *orphan_tars(content, limits),
        *(each for series in SERIES for each in old_weights(content, limits, series)),
        *old_checkpoints(content, limits),
        *compacted_manifests(content, limits),
        *leftovers(content, limits),
    ]


def superseded_labels(content: RunContent, limits: Limits) -> list[Removal]:
    """Tars of labels that newer labels of the same images have replaced.

    The tar that made the images stays until the last round has labelled them: relabelling reads it.
    Age counts from the replacement, for until then the old labels were being read.
    """
    sizes = {file.path: file.size_bytes for file in content.files}
    by_images: dict[str, list[UnitCommit]] = defaultdict(list)
    for commit in content.commits:
        by_images[commit.unit.image_unit_id].append(commit)
    found = []
    for commits in by_images.values():
        good = [commit for commit in commits if _tars(commit)]
        if not good:
            continue
        newest = max(good, key=_label_age)
        if not _is_before(content.committed_at.get(newest.unit.unit_id), limits):
            continue
        is_labelled = max(commit.unit.round for commit in commits) >= limits.last_round
        for commit in good:
            is_needed = commit.unit.kind == "synthesize" and not is_labelled
            if commit is newest or is_needed or commit.unit.round in limits.keep_rounds:
                continue
            paths = tuple(sorted(_tars(commit)))
            size = sum(sizes.get(path, 0) for path in paths)
            found.append(
                Removal(kind="superseded_labels", paths=paths, size_bytes=size, commit=commit)
            )
    return found


def orphan_tars(content: RunContent, limits: Limits) -> list[Removal]:
    """Tars that no unit's newest manifest names: attempts that died, came second or were retried.

    The unit's newest manifest must be old, too: until then the tar may have been in use.
    """
    if content.has_torn:
        return []
    named = {path for commit in content.commits for path in _tars(commit)}
    found = []
    for file in content.files:
        is_tar = file.path.startswith(f"{SHARDS_DIR}/") and file.name.endswith(".tar")
        if not is_tar or file.path in named or file.name.startswith("."):
            continue
        unit_id = file.name.partition(".")[0]
        is_settled = unit_id not in content.committed_at or _is_before(
            content.committed_at[unit_id], limits
        )
        if is_settled and _is_before(file.modified_at, limits):
            found.append(Removal(kind="orphan_tar", paths=(file.path,), size_bytes=file.size_bytes))
    return found


def old_weights(content: RunContent, limits: Limits, series: Series = "creation") -> list[Removal]:
    """Versions of a series beyond the newest ones, and what died before its manifest.

    Version 0 stays, for later stages start from it; so do the versions that rows need, see
    :func:`_named_versions`. A version's age counts from the one after it.
    """
    folders: dict[int, list[StoredFile]] = defaultdict(list)
    for file in content.files:
        folder, _, rest = file.path.partition("/")
        version = parse_weights_dir(rest.partition("/")[0])
        if version is not None and folder == SERIES_DIRS[series]:
            folders[version].append(file)
    committed = {
        version: file.modified_at
        for version, files in folders.items()
        for file in files
        if file.name == WEIGHTS_MANIFEST
    }
    rising = sorted(committed)
    named = _named_versions(content, series)
    kept = {WARM_UP_VERSION, *named, *rising[-max(limits.keep_versions, 1) :]}
    found = []
    for version in sorted(folders.keys() - kept):
        later = [each for each in rising if each > version]
        if not later or not _is_before(committed[later[0]], limits):
            continue
        files = folders[version]
        if all(_is_before(file.modified_at, limits) for file in files):
            # The manifest goes first: without it the version is not there.
            paths = sorted((f.path for f in files), key=lambda p: not p.endswith(WEIGHTS_MANIFEST))
            size = sum(file.size_bytes for file in files)
            found.append(
                Removal(
                    kind="old_weights",
                    paths=tuple(paths),
                    size_bytes=size,
                    version=version,
                    series=series,
                )
            )
    return found


def _named_versions(content: RunContent, series: Series) -> set[int]:
    """Versions that rows need: those that made an image which is there, and the newest labels'.

    Older labels are replaced in later rounds; what made an image stays its origin in all of them.
    """
    rows = [row for commit in content.commits for row in commit.rows]
    if series == "creator":
        return {row.creator_version for row in rows if row.status == "ok"}
    return {max((row.creation_version for row in rows), default=-1)}


def old_checkpoints(content: RunContent, limits: Limits) -> list[Removal]:
    """Checkpoints of a stage beyond its newest ones; a stage's end is none of them."""
    stages: dict[str, dict[str, list[StoredFile]]] = defaultdict(lambda: defaultdict(list))
    for file in content.files:
        parts = file.path.split("/")
        for depth in range(2, len(parts) - 1):
            if parts[0] == CHECKPOINTS_DIR and _STEP_DIR.fullmatch(parts[depth]):
                stages["/".join(parts[:depth])][parts[depth]].append(file)
                break
    found = []
    for folders in stages.values():
        whole = sorted(name for name, files in folders.items() if _is_complete(files))
        kept = {*whole[-max(limits.keep_checkpoints, 1) :], *content.pinned_names}
        for name in sorted(folders.keys() - kept):
            files = folders[name]
            if whole and name < whole[-1] and all(_is_before(f.modified_at, limits) for f in files):
                # The file that makes it complete goes first.
                order = sorted(files, key=lambda f: f.name != _COMPLETE_FILE)
                size = sum(file.size_bytes for file in files)
                paths = tuple(file.path for file in order)
                found.append(Removal(kind="old_checkpoint", paths=paths, size_bytes=size))
    return found


def compacted_manifests(content: RunContent, limits: Limits) -> list[Removal]:
    """Units' own manifests whose rows are also in a compacted file that is old enough."""
    sizes = {file.path: file.size_bytes for file in content.files}
    return [
        Removal(kind="compacted_manifest", paths=(path,), size_bytes=sizes.get(path, 0))
        for path, replaced_at in content.replaced_manifests
        if _is_before(replaced_at, limits)
    ]


def leftovers(content: RunContent, limits: Limits) -> list[Removal]:
    """What a killed writer left: names with a leading dot, and aids for committed units."""
    return [
        Removal(kind="leftover", paths=(file.path,), size_bytes=file.size_bytes)
        for file in content.files
        if (file.name.startswith(".") or _is_used_up(file, content))
        and _is_before(file.modified_at, limits)
    ]


def _is_used_up(file: StoredFile, content: RunContent) -> bool:
    """Whether it was to help with a unit that is committed; its driver died before it tidied up."""
    is_aid = file.path.startswith((f"{PARTIAL_DIR}/", f"{SUSPECTS_DIR}/"))
    return is_aid and unit_of_file(file.name) in content.committed_at


def _tars(commit: UnitCommit) -> set[str]:
    return {row.tar_uri for row in commit.rows if row.status == "ok"}


def _label_age(commit: UnitCommit) -> tuple[int, int]:
    """As readers order labels of the same images: by version, then by round."""
    return max(row.creation_version for row in commit.rows), commit.unit.round


def _is_complete(files: Sequence[StoredFile]) -> bool:
    return any(file.name == _COMPLETE_FILE for file in files)


def _is_before(time: datetime | None, limits: Limits) -> bool:
    return time is not None and time < limits.before
