"""Paths of a configuration, from any working directory."""

from __future__ import annotations

from pathlib import Path


def resolve_path(path: str) -> str:
    """Make a path usable from any working directory.

    A URL and an absolute path stay as they are. A relative path is taken from the working
    directory if it exists there, else from the project's root: processes that a cluster starts
    have other working directories than the one that started the job.
    """
    if "://" in path or Path(path).is_absolute() or Path(path).exists():
        return path
    beside_the_code = Path(__file__).resolve().parents[1] / path
    return str(beside_the_code) if beside_the_code.exists() else path
