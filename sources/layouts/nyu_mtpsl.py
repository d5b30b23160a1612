"""NYUv2 as MTAN and MTPSL store it: {train,val}/{image,label,depth,normal}/I.npy of 288 x 384."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from schemas.errors import SourceError
from sources.layouts.nyu_classes import NYU_13
from sources.layouts.protocol import Layout, LayoutOptions, Signs, choose_tasks
from sources.readers.files import (
    class_ids,
    expect_folders,
    image_from_unit,
    read_npy,
    stored_norm,
    unit_normals,
    valid_depth,
    with_signs,
)
from sources.readers.image_files import ImageFiles, ReadArray, index_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from schemas.sample import Task
    from sources.protocol import Split

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}
"""The folder ``val`` holds the 654 images of the official test split."""

PRESENT: tuple[Task, ...] = ("normals", "depth", "semseg")
REMEDY = "unpack the whole archive and point --root at the folder that holds train/ and val/"


def detect(root: Path) -> bool:
    """Whether there are train/image, train/label and train/normal."""
    folder = _inside(root)
    return all((folder / "train" / name).is_dir() for name in ("image", "label", "normal"))


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open ``nyuv2/{train,val}/{image,label,depth,normal}/I.npy``.

    Images are floats in [0, 1]; labels 13 classes, -1 ignored; depth in metres, 0 invalid; normals
    vectors, zero invalid. A sample's key is ``train_000012`` or ``test_000012``.

    Raises:
        SourceError: If a folder is missing or empty, or a name is not a number.
    """
    folder = _inside(root)
    names = [
        f"{split}/{name}" for split in FOLDERS.values() for name in ("image", *_folders(options))
    ]
    expect_folders(folder, names, remedy=REMEDY)
    images = {split: _images(folder / name / "image", split) for split, name in FOLDERS.items()}
    keys, paths = index_images(images, root=root)
    signs = options.normals_signs or (1.0, 1.0, 1.0)
    readers: dict[Task, ReadArray] = {
        "normals": partial(_normals, signs=signs),
        "depth": _depth,
        "semseg": _semseg,
    }
    tasks = choose_tasks(PRESENT, options, root=root)
    return ImageFiles(
        root=root,
        keys=keys,
        images=paths,
        labels={task: readers[task] for task in tasks},
        image_reader=_image,
        meta=_meta if "normals" in tasks else lambda _: {},
        classes=len(NYU_13),
        names=NYU_13,
    )


def _inside(root: Path) -> Path:
    return root / "nyuv2" if (root / "nyuv2" / "train").is_dir() else root


def _folders(options: LayoutOptions) -> tuple[str, ...]:
    folder_of: dict[Task, str] = {"normals": "normal", "depth": "depth", "semseg": "label"}
    asked = PRESENT if options.tasks is None else options.tasks
    return tuple(folder_of[task] for task in asked if task in folder_of)


def _images(folder: Path, split: Split) -> Iterator[tuple[str, Path]]:
    numbered = {path: path.stem for path in folder.glob("*.npy")}
    odd = [path for path, stem in numbered.items() if not stem.isdecimal()]
    if odd:
        raise SourceError(f"{odd[0]}: wanted files named 0.npy, 1.npy, …; move it elsewhere")
    for path in sorted(numbered, key=lambda one: int(one.stem)):
        yield f"{split}_{int(path.stem):06d}", path


def _beside(image: Path, folder: str) -> Path:
    return image.parents[1] / folder / image.name


def _image(path: Path) -> NDArray[Any]:
    return image_from_unit(read_npy(path, ndim=(3,), channels=3), path)


def _normals(image: Path, *, signs: Signs) -> NDArray[Any]:
    vectors = read_npy(_beside(image, "normal"), ndim=(3,), channels=3)
    return with_signs(unit_normals(vectors), signs)


def _depth(image: Path) -> NDArray[Any]:
    path = _beside(image, "depth")
    return valid_depth(read_npy(path, ndim=(2, 3)))


def _semseg(image: Path) -> NDArray[Any]:
    path = _beside(image, "label")
    stored = read_npy(path, ndim=(2,))
    return class_ids(stored, ignore=(-1,), offset=0, num_classes=len(NYU_13), path=path)


def _meta(image: Path) -> dict[str, Any]:
    vectors = read_npy(_beside(image, "normal"), ndim=(3,), channels=3)
    return {"normals_norm": stored_norm(vectors)}


LAYOUT = Layout(
    name="nyu_mtpsl",
    title="NYUv2 with 13 classes, depth, normals, {train,val}/…/I.npy of 288 x 384 (MTAN, MTPSL)",
    detect=detect,
    open=open_layout,
    official_counts={"train": 795, "test": 654},
    official_size=(288, 384),
)
