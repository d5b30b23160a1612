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
from sources.layouts.classes import CITYSCAPES_7, CITYSCAPES_19
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
    from collections.abc import Iterable, Iterator
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
    return any(files.has_folders(train, "image", f"label_{count}") for count in CLASSES)


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
    files.expect_folders(folder, [f"{name}/image" for name in FOLDERS.values()], remedy=REMEDY)
    num_classes = _choose_classes(folder, options)
    folder_of: dict[Task, str] = {"depth": "depth", "semseg": f"label_{num_classes}"}
    readers: dict[Task, ReadArray] = {"depth": _disparity, "semseg": partial(_semseg, num_classes)}
    present = {
        task: readers[task] for task in readers if (folder / "train" / folder_of[task]).is_dir()
    }
    labels = choose_labels(present, options, root=folder, remedy=REMEDY)
    wanted = [f"{name}/{folder_of[task]}" for name in FOLDERS.values() for task in labels]
    files.expect_folders(folder, wanted, remedy=REMEDY)
    images = {
        split: numbered_arrays(folder / name / "image", split) for split, name in FOLDERS.items()
    }
    return ImageFiles(
        root=root,
        images=index_images(images, root=folder),
        labels=labels,
        remedy=REMEDY,
        image_reader=files.read_unit_image,
        classes=CLASSES[num_classes],
        notes=tuple(_notes(folder, labels, num_classes)),
    )


def _inside(root: Path) -> Path:
    return files.inside(root, "cityscapes2", holding="train")


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


def _notes(folder: Path, tasks: Iterable[Task], num_classes: int) -> Iterator[str]:
    if "depth" in tasks:
        yield f"{folder}: {DISPARITY_NOTE}"
    else:
        yield f"{folder / 'train' / 'depth'}: not read; go on without depth, or {REMEDY}"
    if "semseg" in tasks and num_classes == len(CITYSCAPES_7):
        yield (
            "the archive does not name its 7 classes: the names are those of the official "
            "categories, in their order"
        )


def _disparity(image: Path) -> NDArray[Any]:
    path = beside(image, "depth")
    values = files.read_depth_npy(path)
    if values.max(initial=0) > 1:
        raise SampleError(
            "value_out_of_range",
            f"{path}: wanted disparities of at most 1, found up to {np.max(values):g}",
        )
    return values


def _semseg(num_classes: int, image: Path) -> NDArray[Any]:
    path = beside(image, f"label_{num_classes}")
    stored = files.read_npy(path, ndim=(2,))
    return files.class_ids(stored, ignore=(-1,), offset=0, num_classes=num_classes, path=path)


LAYOUT = Layout(
    name="cityscapes_mtpsl",
    title="Cityscapes with 7 or 19 classes and disparities, {train,val}/…/I.npy (MTAN, MTPSL)",
    detect=detect,
    open=open_layout,
    official_counts={"train": 2975, "test": 500},
    depth_unit="",
)
