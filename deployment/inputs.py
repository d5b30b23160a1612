"""Images as a user has them, path, PIL image or array, to uint8 RGB."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from perception.shapes import ShapeError
from schemas.errors import ConfigError, SampleError
from schemas.plain_files import open_plain, read_plain, why_not
from schemas.run_layout import CONFIG_FILE
from sources.folder_listing import NO_TEXT, RESULTS, Unused, is_text, list_images
from storage.samples.codecs import decode_image
from storage.samples.members import IMAGE_SUFFIXES, MAX_PIXELS, rgb_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    ImageLike = str | Path | Image.Image | NDArray[np.uint8]

PREDICTIONS_FILE = "predictions.json"
SAMPLES_FILE = "samples.json"
RESULT_FILES = (PREDICTIONS_FILE, SAMPLES_FILE, CONFIG_FILE)
"""A folder that holds one of them holds results: its pictures are no photographs."""

_MAX_FILE_BYTES = 8 * MAX_PIXELS + 2**20


@dataclass(frozen=True)
class FoundImages:
    """Images to predict for.

    Attributes:
        files: Image by the name that its results will have.
        unused: What else lies beside them.
    """

    files: dict[str, Path]
    unused: Unused


def as_rgb(image: ImageLike) -> NDArray[np.uint8]:
    """Turn an image into an array, upright and in colour.

    Args:
        image: Path of a picture, a PIL image, or a uint8 array, RGB [H, W, 3] or grey
            [H, W]. The EXIF orientation of files and PIL images is applied.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        ShapeError: If an array has another shape or type, or a PIL image holds no brightness.
        SampleError: If a file cannot be decoded or is too large.
    """
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        if (size := path.stat().st_size) > _MAX_FILE_BYTES:
            raise SampleError("too_large", f"{size} bytes; wanted at most {_MAX_FILE_BYTES}")
        return decode_image(read_plain(path))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise ShapeError(
            f"image: wanted uint8 [H, W, 3] or [H, W], found {image.dtype} {list(image.shape)}"
        )
    if 0 in image.shape:
        raise ShapeError(f"image: wanted at least one pixel, found {list(image.shape)}")
    colour = image if image.ndim == 3 else image[..., None].repeat(3, axis=2)
    return np.ascontiguousarray(colour)


def name_of(image: ImageLike) -> str:
    """File name of an image given as a path, else "": the noise of its features follows from it."""
    return Path(image).name if isinstance(image, str | Path) else ""


def find_images(paths: Sequence[str | Path], *, out: str | Path | None = None) -> FoundImages:
    """List image files under the names that their results will have.

    A folder is searched with all its sub-folders, as :mod:`sources.folder_listing` says; folders
    of results are left out. A file that is named itself is taken whatever its suffix.

    Args:
        out: Where results will be written; left out too.

    Returns:
        The images in the order given, folders sorted. A name is the file's path within its folder
        without the suffix; files that differ in the suffix alone keep it.

    Raises:
        ConfigError: If a path does not exist, a folder has no image, a name is no UTF-8, or two
            images would have one name.
    """
    unused = Unused()
    found: list[tuple[Path, Path]] = []
    for given in paths:
        path = Path(given).expanduser()
        found += [(file, file.relative_to(_base(path))) for file in _files(path, out, unused)]
    found = list({os.path.realpath(file): (file, name) for file, name in found}.values())
    if not found:
        raise ConfigError(_nothing_found(paths, unused))
    for file, _ in found:
        if not is_text(str(file)):
            raise ConfigError(f"{str(file)!a}: wanted a name in UTF-8; rename the file")
    stems = Counter(name.with_suffix("") for _, name in found)
    named: dict[str, Path] = {}
    for file, name in found:
        stem = name.with_suffix("")
        chosen = (stem if stems[stem] == 1 else name).as_posix()
        if chosen in named:
            raise ConfigError(
                f"{named[chosen]} and {file} would both be written as {chosen}; give them in two "
                "calls with two --out folders"
            )
        named[chosen] = file
    return FoundImages(named, unused)


def _base(path: Path) -> Path:
    return path if _holds(path, Path.is_dir) else path.parent


def _files(path: Path, out: str | Path | None, unused: Unused) -> Sequence[Path]:
    """One file that is named, or the images of a folder.

    Raises:
        ConfigError: If there is neither.
    """
    if _holds(path, Path.is_file):
        return [path]
    if not _holds(path, Path.is_dir):
        raise ConfigError(f"{path}: {_not_found(path)}; name a picture or a folder of them")
    results = None if out is None else os.path.realpath(Path(out).expanduser())

    def is_left_out(folder: Path) -> bool:
        if folder != path and os.path.realpath(folder) == results:
            return True
        holds_results = any((folder / name).is_file() for name in RESULT_FILES)
        if holds_results:
            unused.add(RESULTS, folder)
        return holds_results

    listing = list_images(path, is_left_out=is_left_out)
    unused.merge(listing.unused)
    return listing.files


def _nothing_found(paths: Sequence[str | Path], unused: Unused) -> str:
    there = unused.describe()
    return (
        f"{', '.join(str(path) for path in paths[:3])}: wanted images, found no "
        f"{', '.join(sorted(IMAGE_SUFFIXES))} there or below; "
        + (f"{there}; " if there else "")
        + (
            "wanted a name in UTF-8 for each file; rename them"
            if NO_TEXT in unused.counts
            else "name another folder, or the files themselves"
        )
    )


def _holds(path: Path, question: Callable[[Path], bool]) -> bool:
    try:
        return question(path)
    except OSError:
        # Such as a name that is longer than the file system takes.
        return False


def _not_found(path: Path) -> str:
    try:
        open_plain(path).close()
    except FileNotFoundError:
        return "no such file or folder"
    except (OSError, ValueError) as error:
        return why_not(error)
    return "no such file or folder"


def _from_pil(picture: Image.Image) -> NDArray[np.uint8]:
    try:
        return rgb_of(picture)
    except ValueError as error:
        raise ShapeError(f"image: {error}") from error
