"""MATLAB files up to v7, read with scipy; structs and cells that nobody asked for stay unread."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from schemas.errors import SourceError
from sources.readers.mat_tags import check_tags

if TYPE_CHECKING:
    from pathlib import Path

_HDF5 = b"MATLAB 7.3"


def read_variables(path: Path, names: tuple[str, ...], *, remedy: str) -> dict[str, Any]:
    """Read variables of a file that all samples need.

    Args:
        path: A ``.mat`` file up to v7.
        names: The variables that have to be in it.
        remedy: What to do if it cannot be read.

    Raises:
        SourceError: If the file is missing or damaged, or a variable is not in it.
    """
    if not path.is_file():
        raise SourceError(f"{path}: not there; {remedy}")
    try:
        found = load_mat(path.read_bytes(), names)
    except ValueError as error:
        raise SourceError(f"{path}: {error}; {remedy}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise SourceError(f"{path}: no variable {', '.join(missing)} in it; {remedy}")
    return found


def load_mat(content: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the named variables that a file holds, as ``scipy.io.loadmat`` gives them.

    Raises:
        ValueError: If the file is damaged or of v7.3; the text says what was found.
    """
    # Imported here: what reads no such file does not pay for scipy.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if content.startswith(_HDF5):
        raise ValueError("wanted a MATLAB file up to v7, found v7.3 (HDF5)")
    check_tags(content)
    try:
        found: dict[str, Any] = loadmat(io.BytesIO(content), variable_names=list(names))
    # The reader has no exception of its own for damaged files.
    except (MatReadError, ValueError, TypeError, OSError, LookupError, ArithmeticError) as error:
        raise ValueError(f"wanted a MATLAB file, found a damaged one ({error})") from error
    return {name: found[name] for name in names if name in found}
