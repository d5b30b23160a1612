"""Paths of a configuration, from any working directory."""

from __future__ import annotations

import os
from pathlib import Path

LOCAL_PROTOCOLS = frozenset({"file", "local"})


def absolute_url(url: str) -> str:
    """The one spelling of a folder, as an absolute path, or of an fsspec URL."""
    protocol, separator, rest = url.partition("://")
    if separator and protocol not in LOCAL_PROTOCOLS:
        return f"{protocol}://{rest.rstrip('/')}"
    folder = Path(rest if separator else url).expanduser()
    return os.path.abspath(folder)  # noqa: PTH100 - resolves "..", no links


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
