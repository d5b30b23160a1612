"""Cityscapes as MTAN and MTPSL store it: {train,val}/{image,label_7,label_19,depth}/I.npy.

There are copies of 128 x 256 and of 256 x 512. Their "depth" is no depth: its values, 0 to about
0.4922 with 0 invalid, are disparities, and the script that made them is not public. 0.4922 is
32257 / 65535, the greatest official disparity over the greatest 16-bit number. The values are kept
as they are, since the published scores are of them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError, SourceError
from sources.layouts.cityscapes_classes import CITYSCAPES_7, CITYSCAPES_19
from sources.layouts.protocol import Layout, LayoutOptions, choose_tasks
from sources.readers.files import (
    class_ids,
    expect_folders,
    image_from_unit,
    read_npy,
    valid_depth,
)
from sources.readers.image_files import ImageFiles, ReadArray, index_images
from sources.readers.reading import expect_labels, reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from schemas.sample import Task
    from sources.protocol import Split

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}
"""The folder ``val`` holds the 500 images that published scores are of."""

CLASSES = {7: CITYSCAPES_7, 19: CITYSCAPES_19}
REMEDY = "unpack the whole archive again and point --root at the folder that holds train/ and val/"
DISPARITY_NOTE = (
    "depth holds disparities (0 to about 0.49, greater is nearer), not metres, kept to 0.001 in "
    "the shards: errors are in units of these values, and nothing of them may be read as metres; "
    "for metres take the layout cityscapes"
)


def detect(root: Path) -> bool:
    """Whether there are train/image and train/label_7 or train/label_19."""
    train = _inside(root) / "train"
    has_labels = any((train / f"label_{count}").is_dir() for count in CLASSES)
    return has_labels and (train / "image").is_dir()


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open the archive; a sample's key is ``train_000012`` or ``test_000012``.

    Args:
        root: Folder of the data set, or the one above it.
        options: ``num_classes`` 7 or 19; 7 if not said, as in MTAN, MTPSL and DiffusionMTL.

    Raises:
        SourceError: If a folder is missing or empty, a name is not a number, or the classes asked
            for are not there.
    """
    folder = _inside(root)
    expect_folders(folder, [f"{name}/image" for name in FOLDERS.values()], remedy=REMEDY)
    images = {split: _images(folder / name / "image", split) for split, name in FOLDERS.items()}
    keys, paths = index_images(images, root=folder)
    num_classes = _choose_classes(folder, options)
    folder_of: dict[Task, str] = {"depth": "depth", "semseg": f"label_{num_classes}"}
    present = [task for task, name in folder_of.items() if (folder / "train" / name).is_dir()]
    expect_labels(present, folder, remedy=REMEDY)
    tasks = choose_tasks(present, options, root=folder)
    wanted = [f"{name}/{folder_of[task]}" for name in FOLDERS.values() for task in tasks]
    expect_folders(folder, wanted, remedy=REMEDY)
    readers: dict[Task, ReadArray] = {
        "depth": partial(_disparity, folder),
        "semseg": partial(_semseg, folder, num_classes),
    }
    return ImageFiles(
        root=root,
        keys=keys,
        images=paths,
        labels={task: readers[task] for task in tasks},
        image_reader=partial(_image, folder),
        classes=num_classes,
        names=CLASSES[num_classes],
        notes=tuple(_notes(folder, tasks, num_classes)),
    )


def _inside(root: Path) -> Path:
    return root / "cityscapes2" if (root / "cityscapes2" / "train").is_dir() else root


def _choose_classes(folder: Path, options: LayoutOptions) -> int:
    present = [count for count in CLASSES if (folder / "train" / f"label_{count}").is_dir()]
    if options.num_classes is None:
        return min(present, default=min(CLASSES))
    if options.num_classes not in present:
        raise SourceError(
            f"--classes {options.num_classes}: {folder / 'train'} has label sets of "
            f"{' and '.join(map(str, present)) or 'no'} classes; give one of these, or unpack the "
            "folder label_7 or label_19 too"
        )
    return options.num_classes


def _notes(folder: Path, tasks: tuple[Task, ...], num_classes: int) -> Iterator[str]:
    if "depth" in tasks:
        yield f"{folder}: {DISPARITY_NOTE}"
    else:
        yield f"{folder / 'train' / 'depth'}: not read; go on without depth, or {REMEDY}"
    if "semseg" in tasks and num_classes == len(CITYSCAPES_7):
        yield (
            "the archive does not name its 7 classes: the names are those of the official "
            "categories, in their order"
        )


def _images(folder: Path, split: Split) -> Iterator[tuple[str, Path]]:
    numbered = {path: path.stem for path in folder.glob("*.npy")}
    odd = [path for path, stem in numbered.items() if not (stem.isascii() and stem.isdecimal())]
    if odd:
        raise SourceError(f"{odd[0]}: wanted files named 0.npy, 1.npy, …; move it elsewhere")
    for path in sorted(numbered, key=lambda one: int(one.stem)):
        yield f"{split}_{int(path.stem):06d}", path


def _beside(image: Path, folder: str) -> Path:
    return image.parents[1] / folder / image.name


def _image(root: Path, image: Path) -> NDArray[Any]:
    with reading(root, image, remedy=REMEDY) as path:
        return image_from_unit(read_npy(path, ndim=(3,), channels=3), path)


def _disparity(root: Path, image: Path) -> NDArray[Any]:
    with reading(root, _beside(image, "depth"), remedy=REMEDY) as path:
        values = valid_depth(read_npy(path, ndim=(2, 3)))
        if values.max(initial=0) > 1:
            raise SampleError(
                "value_out_of_range",
                f"{path}: wanted disparities of at most 1, found up to {np.max(values):g}",
            )
        return values


def _semseg(root: Path, num_classes: int, image: Path) -> NDArray[Any]:
    with reading(root, _beside(image, f"label_{num_classes}"), remedy=REMEDY) as path:
        stored = read_npy(path, ndim=(2,))
        return class_ids(stored, ignore=(-1,), offset=0, num_classes=num_classes, path=path)


LAYOUT = Layout(
    name="cityscapes_mtpsl",
    title="Cityscapes with 7 or 19 classes and disparities, {train,val}/…/I.npy (MTAN, MTPSL)",
    detect=detect,
    open=open_layout,
    official_counts={"train": 2975, "test": 500},
    depth_unit="",
)
