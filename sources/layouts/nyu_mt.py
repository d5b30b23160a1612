"""The two NYUD-MT archives: lists in gt_sets, a folder a task, 40 classes.

``NYUDv2.tar.gz`` of ATRC, InvPT and TaskPrompter: 425 x 560, ``images/*.png``; ``normals/*.png``
2v / 255 - 1; ``edge/*.png`` 0 or 255. ``NYUD_MT.tgz`` of ASTMT and MTI-Net: 480 x 640,
``images/*.jpg``; ``normals/*.npy`` vectors, zero invalid; ``edge/*.npy`` 0 or 1. In both
``segmentation/*.png`` 0..40, 0 ignored; ``depth/*.npy`` metres, 0 invalid; ``gt_sets/{train,val}``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError, SourceError
from sources.layouts.classes import NYU_40
from sources.layouts.protocol import Layout, LayoutOptions, choose_labels
from sources.readers import files
from sources.readers.image_files import ImageFiles, ReadArray, beside, index_images

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from schemas.sample import Task
    from sources.protocol import Split
    from sources.readers.files import Signs

LABEL_SUFFIX = {".png": ".png", ".jpg": ".npy"}
"""Suffix of an archive's normals and edges, by that of its images."""

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


def detect(root: Path, *, archive: str, suffix: str) -> bool:
    """Whether there are gt_sets, segmentation, and images of the right suffix."""
    folder = files.inside(root, archive, holding="images")
    has_all = files.has_folders(folder, "gt_sets", "images", "segmentation")
    return has_all and files.first_suffix(folder / "images") == suffix


def open_layout(root: Path, options: LayoutOptions, *, archive: str, suffix: str) -> ImageFiles:
    """Open one of the two archives; a sample's key is its name in the lists.

    Args:
        root: Folder of the data set, or the one above it.
        archive: Name of the folder in the archive.

    Raises:
        SourceError: If a folder or list is missing, or the files are the other archive's.
    """
    folder = files.inside(root, archive, holding="images")
    files.expect_folders(folder, ("gt_sets", "images"), remedy=REMEDY)
    _expect_archive(folder, suffix)
    readers: dict[Task, ReadArray] = {
        "normals": partial(_normals, signs=options.signs),
        "depth": lambda image: files.read_depth_npy(beside(image, "depth", ".npy")),
        "semseg": _semseg,
        "boundaries": _boundaries,
    }
    present = {task: read for task, read in readers.items() if (folder / FOLDERS[task]).is_dir()}
    missing = [folder / FOLDERS[task] for task in readers if task not in present]
    return ImageFiles(
        root=root,
        images=index_images(
            {split: _listed(folder, part, suffix) for split, part in LISTS.items()}, root=folder
        ),
        labels=choose_labels(present, options, root=folder, remedy=REMEDY),
        remedy=REMEDY,
        stored_normals=_stored_normals,
        classes=NYU_40,
        notes=(
            *(f"{path}: not there; {REMEDY}, or go on without it" for path in missing),
            NOT_INTERCHANGEABLE,
        ),
    )


def _expect_archive(folder: Path, suffix: str) -> None:
    label_suffix = LABEL_SUFFIX[suffix]
    for name, wanted in {"images": suffix, "normals": label_suffix, "edge": label_suffix}.items():
        found = files.first_suffix(folder / name)
        if found and found != wanted:
            other = TGZ.name if suffix == ".png" else ATRC.name
            raise SourceError(
                f"{folder / name}: wanted {wanted} files, found {found}: these are files of the "
                f"other NYUD-MT archive; give the layout {other} ({NOT_INTERCHANGEABLE})"
            )


def _listed(folder: Path, part: str, suffix: str) -> list[tuple[str, Path]]:
    names = files.read_list(folder / "gt_sets" / f"{part}.txt", remedy=REMEDY)
    return [(name, folder / "images" / f"{name}{suffix}") for name in names]


def _semseg(image: Path) -> NDArray[Any]:
    path = beside(image, "segmentation", ".png")
    stored = files.read_ids_png(path)
    return files.class_ids(stored, ignore=(0,), offset=-1, num_classes=len(NYU_40), path=path)


def _stored_normals(image: Path) -> NDArray[Any]:
    path = beside(image, "normals", LABEL_SUFFIX[image.suffix])
    return (
        files.read_image(path)
        if path.suffix == ".png"
        else files.read_npy(path, ndim=(3,), channels=3)
    )


def _normals(image: Path, *, signs: Signs) -> NDArray[Any]:
    path = beside(image, "normals", LABEL_SUFFIX[image.suffix])
    if path.suffix == ".png":
        return files.read_normals_png(path, signs)
    vectors = _stored_normals(image)
    if np.nanmax(np.abs(vectors)) > 1.01:
        raise SampleError(
            "value_out_of_range",
            f"{path}: wanted vectors with components in [-1, 1], found up to "
            f"{np.nanmax(np.abs(vectors)):g}",
        )
    return files.with_signs(files.unit_normals(vectors), signs)


def _boundaries(image: Path) -> NDArray[Any]:
    path = beside(image, "edge", LABEL_SUFFIX[image.suffix])
    if path.suffix == ".png":
        return files.read_ids_png(path).astype(np.float32) / np.float32(255)
    values = files.read_npy(path, ndim=(2, 3)).astype(np.float32)
    plane = values[..., 0] if values.ndim == 3 else values
    if not (np.isfinite(plane).all() and plane.min() >= 0 and plane.max() <= 1):
        raise SampleError(
            "value_out_of_range",
            f"{path}: wanted 0 and 1, found {plane.min():g} to {plane.max():g}",
        )
    return plane


ATRC = Layout(
    name="nyud_mt_atrc",
    title="NYUDv2.tar.gz of ATRC/InvPT: 425 x 560 PNG, normals, depth, 40 classes, edges",
    detect=partial(detect, archive="NYUDv2", suffix=".png"),
    open=partial(open_layout, archive="NYUDv2", suffix=".png"),
    official_counts=OFFICIAL,
    official_size=(425, 560),
)
TGZ = Layout(
    name="nyud_mt_tgz",
    title="NYUD_MT.tgz of ASTMT/MTI-Net (older): 480 x 640, normals, depth, 40 classes, edges",
    detect=partial(detect, archive="NYUD_MT", suffix=".jpg"),
    open=partial(open_layout, archive="NYUD_MT", suffix=".jpg"),
    official_counts=OFFICIAL,
    official_size=(480, 640),
)
