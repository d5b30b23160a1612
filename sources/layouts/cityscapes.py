"""Cityscapes as its site offers it: images, 19 classes, and depth from disparity and camera.

``leftImg8bit/{train,val}/CITY/CITY_SEQ_FRAME_leftImg8bit.png`` 1024 x 2048, and beside it in the
same form ``gtFine/…_gtFine_{labelTrainIds,labelIds}.png``, ``disparity/…_disparity.png`` (16 bits,
0 invalid, else 256 d + 1) and ``camera/…_camera.json``.
"""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError
from schemas.sample import IGNORE_ID
from sources.layouts.classes import CITYSCAPES_19
from sources.layouts.protocol import Layout, LayoutOptions, choose_labels
from sources.readers import files
from sources.readers.image_files import ImageFiles, ReadArray, index_images
from storage.samples.codecs import MAX_DEPTH_M
from storage.samples.members import read_label_png

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from schemas.sample import Task
    from sources.protocol import Split

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}
"""The folder ``val`` holds the 500 images with public labels that published scores are of."""

IMAGES = "leftImg8bit"
ZIPS = {
    IMAGES: "leftImg8bit_trainvaltest.zip",
    "gtFine": "gtFine_trainvaltest.zip",
    "disparity": "disparity_trainvaltest.zip",
    "camera": "camera_trainvaltest.zip",
}
NEEDED: dict[Task, tuple[str, ...]] = {"depth": ("disparity", "camera"), "semseg": ("gtFine",)}
REMEDY = (
    f"unpack {', '.join(ZIPS.values())} again into one folder and point --root at the one that "
    "holds leftImg8bit/ and gtFine/"
)

SCORED_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each of the 19 classes; all others up to 33 are not scored."""

_NUM_LABEL_IDS = 34
_GREY_16 = ("I;16", "I;16B", "I")
_CLASS_OF_LABEL_ID = np.full(256, IGNORE_ID, dtype=np.uint8)
_CLASS_OF_LABEL_ID[list(SCORED_LABEL_IDS)] = np.arange(len(SCORED_LABEL_IDS))


def detect(root: Path) -> bool:
    """Whether there is leftImg8bit/train."""
    return files.has_folders(_inside(root), f"{IMAGES}/train")


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open the data set; a sample's key is ``CITY_SEQ_FRAME``, its group ``CITY_SEQ``.

    Raises:
        SourceError: If a folder that all samples need is missing or empty.
    """
    folder = _inside(root)
    files.expect_folders(folder, [f"{IMAGES}/{name}" for name in FOLDERS.values()], remedy=REMEDY)
    readers: dict[Task, ReadArray] = {"depth": _depth_m, "semseg": _semseg}
    present = {
        task: read for task, read in readers.items() if files.has_folders(folder, *NEEDED[task])
    }
    labels = choose_labels(present, options, root=folder, remedy=REMEDY)
    return ImageFiles(
        root=root,
        images=index_images(
            {split: _images(folder / IMAGES / name) for split, name in FOLDERS.items()}, root=folder
        ),
        labels=labels,
        remedy=REMEDY,
        meta=lambda image: {"group": _name_of(image).rpartition("_")[0]},
        classes=CITYSCAPES_19,
        notes=tuple(_notes(folder, labels)),
    )


def depth_from_disparity(
    stored: NDArray[Any], *, baseline_m: float, focal_px: float
) -> NDArray[Any]:
    """Depth = baseline · focal length / disparity, as TaskPrompter computes it.

    Args:
        stored: uint16 [H, W]; 0 is invalid, p > 0 is a disparity of (p - 1) / 256 pixels.
        focal_px: Focal length of the left camera, in pixels of the stored map.

    Returns:
        float32 [H, W] in metres; 0 where invalid, infinitely far, or farther than shards hold.
    """
    disparity_px = (stored.astype(np.float64) - 1) / 256
    is_valid = disparity_px * MAX_DEPTH_M >= baseline_m * focal_px
    depth_m = baseline_m * focal_px / np.where(is_valid, disparity_px, 1)
    return np.where(is_valid, depth_m, 0).astype(np.float32)


def _inside(root: Path) -> Path:
    return files.inside(root, "cityscapes", holding=IMAGES)


def _notes(folder: Path, tasks: Iterable[Task]) -> Iterator[str]:
    for task, names in NEEDED.items():
        for name in names:
            if not (folder / name).is_dir():
                yield f"{folder / name}: not there; unpack {ZIPS[name]}, or go on without {task}"
    if "depth" in tasks:
        yield (
            f"depth is computed from disparity; what is farther than {MAX_DEPTH_M} m is invalid "
            "in the shards, while published scores count up to 80 m"
        )


def _images(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((_name_of(path), path) for path in files.list_files(folder, f"*/*_{IMAGES}.png"))


def _name_of(image: Path) -> str:
    return image.stem.removesuffix(f"_{IMAGES}")


def _other(image: Path, kind: str, ending: str) -> Path:
    """File of another kind for an image, such as ``disparity/train/CITY/…_disparity.png``."""
    split, city = image.parents[1].name, image.parent.name
    return image.parents[3] / kind / split / city / f"{_name_of(image)}_{ending}"


def _semseg(image: Path) -> NDArray[Any]:
    path = _other(image, "gtFine", "gtFine_labelTrainIds.png")
    if path.is_file():
        stored, count = files.read_ids_png(path), len(CITYSCAPES_19)
        return files.class_ids(stored, ignore=(IGNORE_ID,), offset=0, num_classes=count, path=path)
    path = _other(image, "gtFine", "gtFine_labelIds.png")
    stored = files.read_ids_png(path)
    files.class_ids(stored, ignore=(), offset=0, num_classes=_NUM_LABEL_IDS, path=path)
    return np.asarray(_CLASS_OF_LABEL_ID[stored])


def _depth_m(image: Path) -> NDArray[Any]:
    baseline_m, focal_px = _read_camera(_other(image, "camera", "camera.json"))
    path = _other(image, "disparity", "disparity.png")
    stored = files.read_decoded(path, partial(read_label_png, modes=_GREY_16, what="disparity"))
    return depth_from_disparity(stored, baseline_m=baseline_m, focal_px=focal_px)


def _read_camera(path: Path) -> tuple[float, float]:
    """Baseline in metres and focal length in pixels.

    Raises:
        SampleError: ``camera_invalid`` if one is not there or not above 0.
    """
    data = files.read_bytes(path)
    try:
        camera = json.loads(data)
        values = float(camera["extrinsic"]["baseline"]), float(camera["intrinsic"]["fx"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SampleError(
            "camera_invalid",
            f"{path}: wanted extrinsic.baseline and intrinsic.fx, found {error!r}",
        ) from error
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise SampleError(
            "camera_invalid", f"{path}: wanted a baseline and focal length above 0, found {values}"
        )
    return values


LAYOUT = Layout(
    name="cityscapes",
    title="Cityscapes from its site: 19 classes, depth from disparity and camera, 1024 x 2048",
    detect=detect,
    open=open_layout,
    official_counts={"train": 2975, "test": 500},
    official_size=(1024, 2048),
)
