"""MATLAB v7.3 files (HDF5), read one slice at a time; links out of the file are refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError, SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_MAX_VALUES = 2**28

# What h5py raises where a file is damaged.
_HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)


class MatFile:
    """Variables of a MATLAB v7.3 file, with MATLAB's axes reversed as HDF5 stores them."""

    def __init__(self, path: Path, *, remedy: str) -> None:
        """Open a file.

        Args:
            remedy: What to do if it cannot be opened; the end of each message.

        Raises:
            SourceError: If it is missing, damaged or no HDF5, or h5py is not installed.
        """
        try:
            import h5py
        except ImportError as error:
            raise SourceError(
                f"{path}: reading it needs h5py; pip install '.[datasets]'"
            ) from error
        self._h5py = h5py
        self._path = path
        self._remedy = remedy
        if not path.is_file():
            raise SourceError(f"{path}: not there; {remedy}")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise SourceError(
                f"{path}: wanted a MATLAB v7.3 file (HDF5), found {error}; {remedy}"
            ) from error

    def array(self, name: str, *, ndim: int, kinds: str) -> Any:
        """A variable, not read yet.

        Args:
            kinds: Kinds of numbers that are accepted, as numpy writes them (``uif``).

        Raises:
            SourceError: If it is missing, of another shape or kind, or lies in another file.
        """
        try:
            return self._checked(name, ndim, kinds)
        except _HDF5_ERRORS as error:
            raise SourceError(
                f"{self._path}: {name} is damaged ({error}); {self._remedy}"
            ) from error

    def _checked(self, name: str, ndim: int, kinds: str) -> Any:
        link = self._file.get(name, getlink=True)
        if link is not None and not isinstance(link, self._h5py.HardLink):
            raise SourceError(
                f"{self._path}: {name} is a link to another place, which is not followed; "
                f"{self._remedy}"
            )
        found = self._file[name] if link is not None else None
        if not isinstance(found, self._h5py.Dataset):
            raise SourceError(f"{self._path}: no variable {name} in it; {self._remedy}")
        if found.is_virtual or found.external:
            raise SourceError(
                f"{self._path}: the numbers of {name} lie in other files, which are not read; "
                f"{self._remedy}"
            )
        if found.ndim != ndim or found.dtype.kind not in kinds:
            raise SourceError(
                f"{self._path}: {name}: wanted {ndim} axes of kind {kinds}, found {found.dtype} "
                f"{found.shape}; {self._remedy}"
            )
        return found

    def texts(self, name: str) -> tuple[str, ...]:
        """A cell array of texts, empty if it is not there or of another form."""
        link = self._file.get(name, getlink=True)
        if not isinstance(link, self._h5py.HardLink):
            return ()
        try:
            found = self._file[name]
            if not isinstance(found, self._h5py.Dataset) or found.dtype != self._h5py.ref_dtype:
                return ()
            codes = [np.asarray(self._file[reference]) for reference in np.ravel(found[()])]
            return tuple("".join(map(chr, code.ravel().astype(np.uint16))) for code in codes)
        except _HDF5_ERRORS:
            return ()


def read_slice(dataset: Any, index: int, path: Path) -> NDArray[Any]:
    """One element along the first axis.

    Raises:
        SampleError: ``decode_failed`` if that part of the file is damaged; ``too_large``.
    """
    if math.prod(dataset.shape[1:]) > _MAX_VALUES:
        raise SampleError("too_large", f"{path}: {dataset.name} has the shape {dataset.shape}")
    try:
        return np.asarray(dataset[index])
    except _HDF5_ERRORS as error:
        raise SampleError(
            "decode_failed", f"{path}: {dataset.name} {index}: {error}; fetch the file again"
        ) from error
