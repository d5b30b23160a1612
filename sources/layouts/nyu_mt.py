"""What the two NYUD-MT archives share: lists in gt_sets, a folder a task, 40 classes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError, SourceError
from sources.layouts.nyu_classes import NYU_40
from sources.layouts.protocol import LayoutOptions, Signs, choose_tasks
from sources.readers.files import (
    class_ids,
    expect_folders,
    first_suffix,
    read_ids_png,
    read_image,
    read_list,
    read_normals_png,
    read_npy,
    stored_norm,
    unit_normals,
    valid_depth,
    with_signs,
)
from sources.readers.image_files import ImageFiles, ReadArray, index_images

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from schemas.sample import Task
    from sources.protocol import Split

Suffixes = dict[str, str]
"""Folder (``images``, ``normals``, ``edge``) to the suffix of its files."""

ATRC: Suffixes = {"images": ".png", "normals": ".png", "edge": ".png"}
TGZ: Suffixes = {"images": ".jpg", "normals": ".npy", "edge": ".npy"}
LISTS: dict[Split, str] = {"train": "train", "test": "val"}
"""The list ``val`` holds the 654 images of the official test split."""

FOLDERS: dict[Task, str] = {
    "normals": "normals",
    "depth": "depth",
    "semseg": "segmentation",
    "boundaries": "edge",
}
OFFICIAL: dict[Split, int] = {"train": 795, "test": 654}
REMEDY = (
    "unpack the whole archive and point --root at the folder that holds images/, segmentation/ and "
    "gt_sets/"
)
NOT_INTERCHANGEABLE = (
    "the two NYUD-MT archives (425 x 560 of ATRC, 480 x 640 of ASTMT) differ in size and labels: "
    "compare scores only with those of the same archive"
)


def detect(root: Path, suffixes: Suffixes, folder_name: str) -> bool:
    """Whether there are gt_sets, segmentation, and images of the right suffix."""
    folder = inside(root, folder_name)
    has_folders = all((folder / name).is_dir() for name in ("gt_sets", "images", "segmentation"))
    return has_folders and first_suffix(folder / "images") == suffixes["images"]


def inside(root: Path, folder_name: str) -> Path:
    """The folder of the data set, if ``root`` is the one above it."""
    return root / folder_name if (root / folder_name / "images").is_dir() else root


def open_nyud(root: Path, options: LayoutOptions, suffixes: Suffixes, name: str) -> ImageFiles:
    """Open one of the two archives; see the modules of each.

    Raises:
        SourceError: If a folder or list is missing, or the files are the other archive's.
    """
    folder = inside(root, name)
    expect_folders(folder, ("gt_sets", "images"), remedy=REMEDY)
    _expect_archive(folder, suffixes)
    present = [task for task, label in FOLDERS.items() if (folder / label).is_dir()]
    tasks = choose_tasks(present, options, root=folder)
    keys, paths = index_images(
        {split: _listed(folder, part, suffixes["images"]) for split, part in LISTS.items()},
        root=folder,
    )
    readers = _readers(folder, suffixes, options.normals_signs or (1.0, 1.0, 1.0))
    missing = [FOLDERS[task] for task in FOLDERS if task not in present]
    notes = [f"{folder / label}: not there; {REMEDY}, or go on without it" for label in missing]
    return ImageFiles(
        root=root,
        keys=keys,
        images=paths,
        labels={task: readers[task] for task in tasks},
        meta=partial(_meta, folder, suffixes) if "normals" in tasks else lambda _: {},
        classes=len(NYU_40),
        names=NYU_40,
        notes=(*notes, NOT_INTERCHANGEABLE),
    )


def _expect_archive(folder: Path, suffixes: Suffixes) -> None:
    for name, wanted in suffixes.items():
        found = first_suffix(folder / name)
        other = "nyud_mt_tgz" if suffixes is ATRC else "nyud_mt_atrc"
        if found and found != wanted:
            raise SourceError(
                f"{folder / name}: wanted {wanted} files, found {found}: these are files of the "
                f"other NYUD-MT archive; give the layout {other} ({NOT_INTERCHANGEABLE})"
            )


def _listed(folder: Path, part: str, suffix: str) -> list[tuple[str, Path]]:
    names = read_list(folder / "gt_sets" / f"{part}.txt", remedy=REMEDY)
    return [(name, folder / "images" / f"{name}{suffix}") for name in names]


def _readers(folder: Path, suffixes: Suffixes, signs: Signs) -> dict[Task, ReadArray]:
    return {
        "normals": partial(_normals, folder, suffixes, signs),
        "depth": partial(_depth, folder),
        "semseg": partial(_semseg, folder),
        "boundaries": partial(_boundaries, folder, suffixes),
    }


def _semseg(folder: Path, image: Path) -> NDArray[Any]:
    path = folder / "segmentation" / f"{image.stem}.png"
    stored = read_ids_png(path)
    return class_ids(stored, ignore=(0,), offset=-1, num_classes=len(NYU_40), path=path)


def _depth(folder: Path, image: Path) -> NDArray[Any]:
    return valid_depth(read_npy(folder / "depth" / f"{image.stem}.npy", ndim=(2, 3)))


def _normals(folder: Path, suffixes: Suffixes, signs: Signs, image: Path) -> NDArray[Any]:
    path = folder / "normals" / f"{image.stem}{suffixes['normals']}"
    if path.suffix == ".png":
        return read_normals_png(path, signs)
    vectors = read_npy(path, ndim=(3,), channels=3)
    if np.nanmax(np.abs(vectors)) > 1.01:
        raise SampleError(
            "value_out_of_range",
            f"{path}: wanted vectors with components in [-1, 1], found up to "
            f"{np.nanmax(np.abs(vectors)):g}; fetch the archive again",
        )
    return with_signs(unit_normals(vectors), signs)


def _boundaries(folder: Path, suffixes: Suffixes, image: Path) -> NDArray[Any]:
    path = folder / "edge" / f"{image.stem}{suffixes['edge']}"
    if path.suffix == ".png":
        return read_ids_png(path).astype(np.float32) / np.float32(255)
    values = read_npy(path, ndim=(2, 3)).astype(np.float32)
    plane = values[..., 0] if values.ndim == 3 else values
    if not (np.isfinite(plane).all() and plane.min() >= 0 and plane.max() <= 1):
        raise SampleError(
            "value_out_of_range",
            f"{path}: wanted 0 and 1, found {plane.min():g} to {plane.max():g}; fetch it again",
        )
    return plane


def _meta(folder: Path, suffixes: Suffixes, image: Path) -> dict[str, Any]:
    path = folder / "normals" / f"{image.stem}{suffixes['normals']}"
    is_png = path.suffix == ".png"
    vectors = read_image(path) if is_png else read_npy(path, ndim=(3,), channels=3)
    return {"normals_norm": stored_norm(vectors)}
