"""What only the files of a folder tell: copies among all of them, turned images, stored lengths."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from schemas.errors import SampleError
from schemas.plain_files import open_plain, read_plain
from sources.protocol import Split
from sources.readers.stored import code_lengths, read_stored_file
from storage.samples.members import DECODE_ERRORS, PICTURE_FORMATS
from storage.samples.metadata import orientation_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Place = tuple[Split, str]

_MOST_HASHED = 4096
_MOST_BYTES = 2**28
_LENGTHS_OF = 16


def equal_files(files: Mapping[Place, Path]) -> Iterator[list[Place]]:
    """Groups of samples whose images are the same bytes; files that are no pictures are left out.

    Only files of equal sizes are read, at most 4096 of them and 256 MiB in all.
    """
    by_size: dict[int, list[Place]] = defaultdict(list)
    for place, file in files.items():
        try:
            by_size[file.stat().st_size].append(place)
        except OSError:
            continue
    groups = [(size, places) for size, places in by_size.items() if len(places) > 1]
    by_digest: dict[bytes, list[Place]] = defaultdict(list)
    left = _MOST_BYTES
    for size, place in islice(
        ((size, place) for size, places in groups for place in places), _MOST_HASHED
    ):
        left -= size
        if left < 0:
            break
        try:
            data = read_plain(files[place])
        except OSError:
            continue
        by_digest[hashlib.blake2b(data, digest_size=16).digest()].append(place)
    alike = (places for places in by_digest.values() if len(places) > 1)
    return (places for places in alike if _is_picture(files[places[0]]))


def describe_turned(images: Iterable[Path]) -> Iterator[str]:
    """Whether images are turned by their metadata, which label maps have none of."""
    files = list(images)
    turned = [file.name for file in files if _is_turned(file)]
    if turned:
        yield (
            f"{len(turned)} of {len(files)} images looked at, such as {turned[0]}, are turned by "
            "their EXIF orientation, and their labels are read as they are stored: see whether "
            "they lie on each other; else write the images upright without EXIF (mogrify "
            "-auto-orient)"
        )


def _is_picture(file: Path) -> bool:
    try:
        with Image.open(file, formats=PICTURE_FORMATS):
            return True
    except DECODE_ERRORS:
        return False


def _is_turned(file: Path) -> bool:
    try:
        with open_plain(file) as data, Image.open(data, formats=PICTURE_FORMATS) as picture:
            return orientation_of(picture) != 1
    except DECODE_ERRORS:
        return False


def stored_lengths(files: Iterable[Path]) -> dict[str, float]:
    """Sum and count of the mean lengths of normals as 8-bit files store them, as a tally has it."""
    lengths: list[float] = []
    for file in islice(files, _LENGTHS_OF):
        try:
            values = read_stored_file(file, num_channels=3).values
        except SampleError:
            continue
        if values.dtype == np.uint8 and values.ndim == 3:
            found = code_lengths(values)
            lengths += [float(found.mean())] if found.size else []
    return {"norm": sum(lengths), "norm_count": len(lengths)} if lengths else {}
