"""NYUv2 as MTAN and MTPSL store it: {train,val}/{image,label,depth,normal}/I.npy of 288 x 384."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sources.layouts.classes import NYU_13
from sources.layouts.protocol import Layout, LayoutOptions, choose_labels
from sources.readers import files
from sources.readers.image_files import (
    ImageFiles,
    ReadArray,
    beside,
    index_images,
    numbered_arrays,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from schemas.sample import Task
    from sources.protocol import Split

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}
"""The folder ``val`` holds the 654 images of the official test split."""

FOLDER_OF: dict[Task, str] = {"normals": "normal", "depth": "depth", "semseg": "label"}
REMEDY = "unpack the whole archive and point --root at the folder that holds train/ and val/"


def detect(root: Path) -> bool:
    """Whether there are train/image, train/label and train/normal."""
    return files.has_folders(_inside(root), "train/image", "train/label", "train/normal")


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open ``nyuv2/{train,val}/{image,label,depth,normal}/I.npy``.

    Images are floats in [0, 1]; labels 13 classes, -1 ignored; depth in metres, 0 invalid; normals
    vectors, zero invalid. A sample's key is ``train_000012`` or ``test_000012``.

    Raises:
        SourceError: If a folder is missing or empty, or a name is not a number.
    """
    folder = _inside(root)
    readers: dict[Task, ReadArray] = {
        "normals": lambda image: files.with_signs(
            files.unit_normals(_vectors(image)), options.signs
        ),
        "depth": lambda image: files.read_depth_npy(beside(image, "depth")),
        "semseg": _semseg,
    }
    labels = choose_labels(readers, options, root=root, remedy=REMEDY)
    names = [
        f"{split}/{name}"
        for split in FOLDERS.values()
        for name in ("image", *(FOLDER_OF[task] for task in labels))
    ]
    files.expect_folders(folder, names, remedy=REMEDY)
    images = {
        split: numbered_arrays(folder / name / "image", split) for split, name in FOLDERS.items()
    }
    return ImageFiles(
        root=root,
        images=index_images(images, root=root),
        labels=labels,
        remedy=REMEDY,
        image_reader=files.read_unit_image,
        stored_normals=_vectors,
        classes=NYU_13,
    )


def _inside(root: Path) -> Path:
    return files.inside(root, "nyuv2", holding="train")


def _vectors(image: Path) -> NDArray[Any]:
    return files.read_npy(beside(image, "normal"), ndim=(3,), channels=3)


def _semseg(image: Path) -> NDArray[Any]:
    path = beside(image, "label")
    stored = files.read_npy(path, ndim=(2,))
    return files.class_ids(stored, ignore=(-1,), offset=0, num_classes=len(NYU_13), path=path)


LAYOUT = Layout(
    name="nyu_mtpsl",
    title="NYUv2 with 13 classes, depth, normals, {train,val}/…/I.npy of 288 x 384 (MTAN, MTPSL)",
    detect=detect,
    open=open_layout,
    official_counts={"train": 795, "test": 654},
    official_size=(288, 384),
)
