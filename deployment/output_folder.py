"""The folder that a job writes for people: never mixed with files of something else."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigError
from storage.files.stores import RunStore, open_store


def open_output(url: str, *, marker: str) -> RunStore:
    """Open a folder to write to; it may hold what the same job wrote before.

    Args:
        url: Folder or fsspec URL of ``--out``.
        marker: File that the job writes; by it its own folders are recognised.

    Raises:
        ConfigError: If it is a file, or holds something else.
    """
    store = open_store(url)
    if "://" not in url and Path(url).expanduser().is_file():
        raise ConfigError(f"--out {url}: wanted a folder, found a file; name another one")
    found = store.list_dir("")
    if found and marker not in found:
        raise ConfigError(
            f"--out {url}: wanted a new or empty folder, or one with {marker} that this job wrote "
            f"before; found {', '.join(found[:3])}{' …' if len(found) > 3 else ''}; "
            "name another folder"
        )
    return store
