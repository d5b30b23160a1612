"""Whether the run directory can be written as a run writes it; nothing of the probe stays."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from pathlib import Path

from runs.begun import has_begun
from schemas.config_file import parse_tree
from schemas.errors import AlreadyCommittedError, ConfigError
from schemas.run_layout import (
    CAPTIONS_DIR,
    CHECKPOINTS_DIR,
    CONFIG_FILE,
    CREATOR_DIR,
    EVENTS_DIR,
    LOCK_DIR,
    PARTIAL_DIR,
    SHARDS_DIR,
    SUSPECTS_DIR,
    UNITS_DIR,
    WEIGHTS_DIR,
)
from storage.files.stores import RunStore, open_store

_NOTES = (".log", ".yaml", ".yml")
_OWN = {
    *(CAPTIONS_DIR, CHECKPOINTS_DIR, EVENTS_DIR, LOCK_DIR, PARTIAL_DIR, SHARDS_DIR, SUSPECTS_DIR),
    *(UNITS_DIR.split("/")[0], WEIGHTS_DIR, CREATOR_DIR),
}
"""Folders of a run: it may be given some before it begins, such as the weights of another."""
_JOB_FILES = "working_dir_files"
"""Folder of Ray that holds its copies of the code of submitted jobs."""


def expect_place(store: RunStore, *, wanted_bytes: int | None = None) -> list[str]:
    """Try a commit beside the run: create an object, see that it cannot be created twice.

    Args:
        wanted_bytes: What the run is estimated to write.

    Returns:
        A remark if there may be too little room.

    Raises:
        ConfigError: If the directory cannot be written, commits are not safe there, it lies in
            Ray's copy of a job's code, or it holds files and no run.
    """
    if _JOB_FILES in Path(store.url).parts and "://" not in store.url:
        raise ConfigError(
            f"run.url = {store.url}: lies in Ray's copy of the code, which Ray removes and other "
            "nodes do not have; give a path that all nodes see: --set run.url=/absolute/folder or "
            "--set run.url=s3://bucket/run"
        )
    is_local = "://" not in store.url
    if is_local:
        _expect_no_other_files(Path(store.url), store)
    if is_local:
        folder = expect_writable_folder(Path(store.url), "run.url")
        return _room(folder, wanted_bytes or 0)
    _probe(store, f"run.url = {store.url}")
    return []


def expect_writable_folder(path: Path, field: str) -> Path:
    """Check that a folder can be made and written to.

    Args:
        field: What names it, for messages.

    Returns:
        The folder itself or the nearest one above it that exists.

    Raises:
        ConfigError: If not.
    """
    for each in (path, *path.parents):
        if each.is_dir():
            _probe(open_store(str(each)), f"{field} = {path}")
            return each
        if each.exists():
            break
    raise ConfigError(f"{field} = {path}: {each} is no folder; choose another place")


def _probe(place: RunStore, what: str) -> None:
    try:
        _try_commit(place, f".probe-{uuid.uuid4().hex}")
    except (OSError, NotImplementedError) as error:
        raise ConfigError(
            f"{what}: {place.url} cannot be written ({error}); give this user the right to write "
            "there, or choose another place"
        ) from error


def _expect_no_other_files(folder: Path, store: RunStore) -> None:
    """Check that a folder is new, empty or a run's; logs and configurations may lie there too.

    Raises:
        ConfigError: If it holds other files, such as photographs.
    """
    config = folder / CONFIG_FILE
    if not folder.is_dir() or _is_of_a_run(config) or (config.exists() and has_begun(store)):
        return
    names = sorted(each.name for each in folder.iterdir())
    foreign = [
        name
        for name in names
        if name == CONFIG_FILE
        or not (name in _OWN or name.startswith(".") or name.endswith(_NOTES))
    ]
    if foreign:
        raise ConfigError(
            f"run.url = {folder}: holds what is no run's, "
            f"such as {foreign[0]!r:.200}; a run is written into a new or an empty folder: choose "
            f"another, such as --set run.url={folder}_run"
        )


def _is_of_a_run(file: Path) -> bool:
    try:
        tree = parse_tree(file.read_bytes(), origin=str(file))
    except (OSError, ConfigError):
        return False
    return isinstance(tree.get("run"), dict)


def _try_commit(place: RunStore, name: str) -> None:
    try:
        place.put_if_absent(name, b"1")
        with contextlib.suppress(AlreadyCommittedError):
            place.put_if_absent(name, b"2")
            raise ConfigError(
                f"run.url: {place.url}: an object could be created twice, so two writers would "
                "overwrite each other; use a folder, s3:// or gs://"
            )
    finally:
        with contextlib.suppress(OSError, NotImplementedError):
            place.remove_file(name)


def _room(folder: Path, wanted_bytes: int) -> list[str]:
    free = shutil.disk_usage(folder).free
    if free >= wanted_bytes:
        return []
    return [
        f"run.url: {free / 1e9:.1f} GB are free on the disk of {folder}, and the plan is estimated "
        f"to write {wanted_bytes / 1e9:.1f} GB"
    ]
