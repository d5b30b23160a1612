"""Files of published data sets as arrays; every error names the file."""

from __future__ import annotations

import contextlib
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SampleError, SourceError
from schemas.plain_files import open_plain, read_plain, why_not
from schemas.sample import IGNORE_ID
from schemas.text import decode_text
from sources.folder_listing import is_hidden
from storage.samples.codecs import decode_class_ids, decode_image, decode_normals
from storage.samples.members import decode_npy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from schemas.sample import Sample

Array = NDArray[Any]
Signs = tuple[float, float, float]

_MAX_NPY_BYTES = 2**30
_MAX_BYTES = 2**31
_confined: ContextVar[Path | None] = ContextVar("confined", default=None)


@contextlib.contextmanager
def ending_with(remedy: str) -> Iterator[None]:
    """Put the remedy behind the detail of a SampleError that is raised inside.

    Raises:
        SampleError: The one that was raised inside, with the remedy.
    """
    try:
        yield
    except SampleError as error:
        raise SampleError(error.reason, f"{error.detail}; {remedy}") from error


def inside(root: Path, *names: str, holding: str) -> Path:
    """The folder of a data set: the one of these names under ``root``, else ``root`` itself."""
    return next((root / name for name in names if (root / name / holding).is_dir()), root)


def has_folders(root: Path, *names: str) -> bool:
    """Whether all these folders are there."""
    return all((root / name).is_dir() for name in names)


def expect_folders(root: Path, names: Iterable[str], *, remedy: str) -> None:
    """Check that files or folders are there.

    Raises:
        SourceError: If one is not; the message names the first and ends with the remedy.
    """
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        others = f" (also missing: {', '.join(missing[1:])})" if len(missing) > 1 else ""
        raise SourceError(f"{root / missing[0]}: not there{others}; {remedy}")


def list_files(folder: Path, pattern: str) -> list[Path]:
    """Files of a pattern such as ``*/rgb_*.jpg``, sorted; its suffix counts in any case.

    Hidden files and folders are left out, as :mod:`sources.folder_listing` says.
    """
    stem, _, suffix = pattern.rpartition(".")
    in_any_case = "".join(f"[{sign}{sign.upper()}]" for sign in suffix)
    found = folder.glob(f"{stem}.{in_any_case}")
    return sorted(path for path in found if not any(map(is_hidden, path.relative_to(folder).parts)))


def read_list(path: Path, *, remedy: str) -> tuple[str, ...]:
    """Lines of a list of a split, without blanks and empty lines.

    Raises:
        SourceError: If the file is missing, empty or names a line twice.
    """
    try:
        lines = decode_text(read_plain(path)).splitlines()
    except FileNotFoundError as error:
        raise SourceError(f"{path}: the list of the split is missing; {remedy}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: wanted text, a name a line, found {error}; {remedy}") from error
    except OSError as error:
        raise SourceError(f"{path}: the list of the split: {why_not(error)}; {remedy}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise SourceError(f"{path}: wanted a name a line, found an empty file; {remedy}")
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise SourceError(f"{path}: {twice!r} comes more than once; {remedy}")
    return names


@contextlib.contextmanager
def confined_to(root: Path) -> Iterator[None]:
    """Let :func:`read_bytes` read nothing, in the block, to which a link leads out of a folder."""
    token = _confined.set(root.resolve())
    try:
        yield
    finally:
        _confined.reset(token)


def read_bytes(path: Path) -> bytes:
    """The bytes of a sample's file.

    Raises:
        SampleError: ``file_missing`` if there is no plain file, ``file_unreadable``,
            ``too_large``, ``outside_root``.
    """
    root, target = _confined.get(), path.resolve()
    if root is not None and not target.is_relative_to(root):
        raise SampleError(
            "outside_root", f"{path}: leads to {target}, which is not under {root}; copy it there"
        )
    try:
        with open_plain(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > _MAX_BYTES:
                raise SampleError("too_large", f"{path}: {size} bytes for one sample")
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SampleError("file_missing", f"{path}: wanted a file, found none") from error
    except OSError as error:
        raise SampleError("file_unreadable", f"{path}: {why_not(error)}") from error


def read_decoded(path: Path, decode: Callable[[bytes], Array]) -> Array:
    """What a decoder makes of the bytes of a sample's file.

    Raises:
        SampleError: As of :func:`read_bytes`, or the decoder's with the path before its detail.
    """
    data = read_bytes(path)
    try:
        return decode(data)
    except SampleError as error:
        raise SampleError(error.reason, f"{path}: {error.detail}") from error


def read_image(path: Path) -> Array:
    """A PNG or JPEG as uint8 RGB [H, W, 3]; errors as of :func:`read_decoded`."""
    return read_decoded(path, decode_image)


def read_ids_png(path: Path) -> Array:
    """An 8-bit grey or palette PNG as uint8 [H, W] of stored ids; errors likewise."""
    return read_decoded(path, decode_class_ids)


def read_normals_png(path: Path, signs: Signs) -> Array:
    """8-bit normals, n = 2v / 255 - 1, (0, 0, 0) invalid, as float32 unit [H, W, 3].

    Args:
        path: A PNG file, 8-bit RGB; errors as of :func:`read_decoded`.
        signs: Factors of x, y, z that bring them into the project's frame.
    """
    return with_signs(read_decoded(path, decode_normals), signs)


def read_npy(path: Path, *, ndim: Sequence[int], channels: int | None = None) -> Array:
    """An array of numbers as it was saved; nothing is ever unpickled.

    Args:
        path: A ``.npy`` file.
        channels: Wanted length of the last axis; None: any.

    Raises:
        SampleError: ``file_missing``; ``too_large``; ``decode_failed`` if it is damaged, holds
            objects, or has another shape.
    """
    data = read_bytes(path)
    if len(data) > _MAX_NPY_BYTES:
        raise SampleError("too_large", f"{path}: {len(data)} bytes; wanted one sample's array")
    array = decode_npy(data, what=str(path))
    is_numbers = array.dtype.kind in "biuf" and array.size > 0
    if not is_numbers or array.ndim not in ndim or (channels and array.shape[-1] != channels):
        wanted = f"{' or '.join(map(str, ndim))} axes" + (f" ending in {channels}" * bool(channels))
        raise SampleError(
            "decode_failed",
            f"{path}: wanted numbers with {wanted}, found {array.dtype} {array.shape}",
        )
    return array


def read_unit_image(path: Path) -> Array:
    """An image stored as an array of floats in [0, 1], [H, W, 3], as uint8.

    Raises:
        SampleError: As of :func:`read_npy`; ``value_out_of_range`` if a value is not in [0, 1].
    """
    values = read_npy(path, ndim=(3,), channels=3)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1 + 1e-6):
        raise SampleError(
            "value_out_of_range",
            f"{path}: wanted an image in [0, 1], found {values.min():g} to {values.max():g}",
        )
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def with_signs(normals: Array, signs: Signs) -> Array:
    """Normals with the signs of their components changed; invalid (all-zero) ones stay zero."""
    # Adding zero turns -0.0, which a factor of -1 makes of 0.0, into 0.0.
    return (normals * np.asarray(signs, np.float32) + np.float32(0)).astype(np.float32)


def stored_norm(vectors: Array) -> float:
    """Mean length of normals as they are stored, over all that are not zero; 0 if all are.

    Args:
        vectors: Floats [H, W, 3], or uint8 codes of 2v / 255 - 1 with (0, 0, 0) invalid.
    """
    is_set = vectors.any(axis=-1)
    if not is_set.any():
        return 0.0
    chosen = vectors[is_set].astype(np.float64)
    if vectors.dtype == np.uint8:
        chosen = chosen * (2 / 255) - 1
    return round(float(np.linalg.norm(chosen, axis=-1).mean()), 4)


def first_suffix(folder: Path) -> str:
    """Suffix of the first file of a folder, such as ``.png``; "" if it is empty or not there."""
    if not folder.is_dir():
        return ""
    files = (path.suffix for path in folder.iterdir() if path.suffix and not is_hidden(path.name))
    return next(files, "")


def unit_normals(vectors: Array) -> Array:
    """Vectors [H, W, 3] as float32 unit normals; what is shorter than 0.5 or not finite is zero."""
    # Cast first: what float32 cannot hold is infinite only then.
    single = _float32(vectors)
    finite = np.where(np.isfinite(single), single, 0)
    norm = np.linalg.norm(finite, axis=-1, keepdims=True)
    return np.where(norm > 0.5, finite / np.maximum(norm, 0.5), 0).astype(np.float32)


def read_depth_npy(path: Path) -> Array:
    """An array of depths as float32 [H, W], in its own unit; 0 where not finite or not positive."""
    return valid_depth(read_npy(path, ndim=(2, 3)))


def valid_depth(depth_m: Array) -> Array:
    """Depth in metres as float32 [H, W] (or [H, W, 1]); 0 where not finite or not positive."""
    plane = _float32(depth_m[..., 0] if depth_m.ndim == 3 else depth_m)
    is_valid = np.isfinite(plane) & (plane > 0)
    return np.where(is_valid, plane, 0).astype(np.float32)


def _float32(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def class_ids(
    stored: Array, *, ignore: Sequence[int], offset: int, num_classes: int, path: Path
) -> Array:
    """Stored class ids as uint8 ids from 0, 255 = ignore.

    Args:
        stored: Integer (or whole float) ids [H, W].

    Raises:
        SampleError: ``class_id_out_of_range`` for any other id; the detail says which.
    """
    ids = stored.astype(np.int64) + offset
    is_ignored = np.isin(stored, ignore)
    outside = ~is_ignored & ((ids < 0) | (ids >= num_classes) | (stored != ids - offset))
    if outside.any():
        found = ", ".join(f"{one:g}" for one in np.unique(stored[outside])[:5])
        raise SampleError(
            "class_id_out_of_range",
            f"{path}: wanted ids {-offset} to {num_classes - 1 - offset} or "
            f"{', '.join(map(str, ignore))} (ignored), found {found}",
        )
    return np.where(is_ignored, IGNORE_ID, ids).astype(np.uint8)


def expect_one_size(sample: Sample, path: Path) -> Sample:
    """Give the sample back if its labels have the size of the image.

    Raises:
        SampleError: ``label_size_differs`` otherwise.
    """
    size = sample.image.shape[:2]
    for task, label in sample.labels.items():
        if label.shape[:2] != size:
            turned = "; is the image turned by its EXIF orientation, and the label not?"
            raise SampleError(
                "label_size_differs",
                f"{path}: the image is {size[0]} x {size[1]}, its {task} "
                f"{label.shape[0]} x {label.shape[1]} (height x width); take both from one copy "
                "of the data set" + (turned if label.shape[:2] == size[::-1] else ""),
            )
    return sample
