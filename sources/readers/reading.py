"""Reading a sample's file: it has to lie under the root, and every error ends with a remedy."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from schemas.errors import SampleError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from schemas.sample import Task


@contextlib.contextmanager
def reading(root: Path, path: Path, *, remedy: str) -> Iterator[Path]:
    """Give a file of a data set to read; end every SampleError raised inside with the remedy.

    Args:
        root: Folder of the data set.
        path: The file.
        remedy: What to do if it cannot be read.

    Yields:
        The path, if no link and no ``..`` in it leads out of the root.

    Raises:
        SampleError: ``outside_root``, or the one that was raised inside, with the remedy.
    """
    target, inside = path.resolve(), root.resolve()
    if not target.is_relative_to(inside):
        raise SampleError(
            "outside_root",
            f"{path}: leads to {target}, which is not under {inside}; copy the files there, or "
            "point --root at the folder that holds all of them",
        )
    try:
        yield path
    except SampleError as error:
        raise SampleError(error.reason, f"{error.detail}; {remedy}") from error


def expect_labels(present: Sequence[Task], root: Path, *, remedy: str) -> None:
    """Check that a data set has labels of any task.

    Raises:
        SourceError: If it has none.
    """
    if not present:
        raise SourceError(f"{root}: found images but no labels; {remedy}")
