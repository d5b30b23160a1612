"""PASCAL-Context with five tasks, as ASTMT, ATRC, InvPT and TaskPrompter use it.

``PASCAL_MT.tgz`` or ``PASCALContext.tar.gz``: ``JPEGImages/NAME.jpg``; lists
``ImageSets/Context/{train,val}.txt``; ``semseg/{VOC12,pascal-context}/NAME.png`` 21 classes;
``pascal-context/trainval/NAME.mat`` with ``LabelMap``; ``human_parts/NAME.mat`` with ``anno``;
``normals_distill/NAME.png`` and ``sal_distill/NAME.png``. Nothing is written into the data set.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import SampleError, SourceError
from schemas.sample import IGNORE_ID
from sources.layouts.pascal_classes import CONTEXT_IDS_WITH_NORMALS, VOC_21
from sources.layouts.pascal_parts import paint_parts
from sources.layouts.protocol import Layout, LayoutOptions, Signs, choose_tasks
from sources.readers.files import (
    class_ids,
    expect_folders,
    naming,
    read_bytes,
    read_ids_png,
    read_image,
    read_list,
    read_normals_png,
    stored_norm,
)
from sources.readers.image_files import ImageFiles, ReadArray, index_images
from sources.readers.matlab import load_mat
from sources.readers.reading import expect_labels, reading
from storage.samples.pictures import read_label_png

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from schemas.sample import Task
    from sources.protocol import Split

LISTS: dict[Split, str] = {"train": "train", "test": "val"}
"""The list ``val`` holds the 5 105 images that published scores are of."""

ARCHIVES = ("PASCAL_MT", "PASCALContext")
LABEL_MAPS = "pascal-context/trainval"
VOC, CONTEXT = "semseg/VOC12", "semseg/pascal-context"
NEEDED: dict[Task, tuple[str, ...]] = {
    "normals": ("normals_distill", LABEL_MAPS),
    "semseg": (CONTEXT,),
    "human_parts": ("human_parts",),
    "saliency": ("sal_distill",),
    "boundaries": (LABEL_MAPS,),
}
REMEDY = (
    "unpack the whole archive (PASCAL_MT.tgz or PASCALContext.tar.gz) again and point --root at "
    "the folder that holds JPEGImages/ and ImageSets/"
)


def detect(root: Path) -> bool:
    """Whether there are JPEGImages and ImageSets/Context."""
    folder = _inside(root)
    return all((folder / name).is_dir() for name in ("JPEGImages", "ImageSets/Context"))


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open the data set; a sample's key is its name, such as ``2008_000002``.

    Raises:
        SourceError: If a list or a folder that all samples need is missing, or scikit-image is,
            which the boundaries need.
    """
    folder = _inside(root)
    expect_folders(folder, ("JPEGImages", "ImageSets/Context"), remedy=REMEDY)
    keys, paths = index_images(
        {split: _listed(folder, name) for split, name in LISTS.items()}, root=folder
    )
    present = [task for task in NEEDED if not _missing(folder, task)]
    expect_labels(present, folder, remedy=REMEDY)
    tasks = choose_tasks(present, options, root=folder)
    if "boundaries" in tasks:
        _expect_skimage(folder)
    notes = [
        f"{folder / name}: not there; go on without {task}, or {REMEDY}"
        for task in NEEDED
        for name in _missing(folder, task)
    ]
    readers = _readers(folder, options.normals_signs or (1.0, 1.0, 1.0))
    return ImageFiles(
        root=root,
        keys=keys,
        images=paths,
        labels={task: readers[task] for task in tasks},
        image_reader=partial(_image, folder),
        meta=partial(_meta, folder) if "normals" in tasks else lambda _: {},
        classes=len(VOC_21),
        names=VOC_21,
        notes=tuple(notes),
    )


def boundaries_of(label_map: NDArray[Any]) -> NDArray[Any]:
    """Boundaries between regions: where the Laplacian of the ids is not 0, thinned.

    The Laplacian is the sum of the four neighbours less four times the pixel, the image mirrored
    about its outermost pixels, as in ASTMT and all that follow it.

    Args:
        label_map: Whole numbers [H, W].

    Returns:
        float32 [H, W], 0 or 1.
    """
    # Imported here: only boundaries need it.
    from skimage.morphology import thin

    ids = np.pad(label_map.astype(np.int64), 1, mode="reflect")
    around = ids[:-2, 1:-1] + ids[2:, 1:-1] + ids[1:-1, :-2] + ids[1:-1, 2:]
    return np.asarray(thin(around != 4 * ids[1:-1, 1:-1]), dtype=np.float32)


def _inside(root: Path) -> Path:
    inner = (root / name for name in ARCHIVES)
    return next((folder for folder in inner if (folder / "JPEGImages").is_dir()), root)


def _missing(folder: Path, task: Task) -> list[str]:
    if task == "semseg" and (folder / VOC).is_dir():
        return []
    return [name for name in NEEDED[task] if not (folder / name).is_dir()]


def _expect_skimage(folder: Path) -> None:
    if importlib.util.find_spec("skimage") is None:
        raise SourceError(
            f"{folder}: boundaries need scikit-image; pip install '.[datasets]', or leave "
            "boundaries out of --tasks"
        )


def _listed(folder: Path, part: str) -> list[tuple[str, Path]]:
    names = read_list(folder / "ImageSets" / "Context" / f"{part}.txt", remedy=REMEDY)
    return [(name, folder / "JPEGImages" / f"{name}.jpg") for name in names]


def _readers(folder: Path, signs: Signs) -> dict[Task, ReadArray]:
    return {
        "normals": partial(_normals, folder, signs),
        "semseg": partial(_semseg, folder),
        "human_parts": partial(_human_parts, folder),
        "saliency": partial(_saliency, folder),
        "boundaries": lambda image: boundaries_of(_label_map(folder, image)),
    }


def _image(folder: Path, image: Path) -> NDArray[Any]:
    with reading(folder, image, remedy=REMEDY) as path:
        return read_image(path)


def _semseg(folder: Path, image: Path) -> NDArray[Any]:
    choices = [folder / name / f"{image.stem}.png" for name in (VOC, CONTEXT)]
    chosen = next((path for path in choices if path.is_file()), choices[-1])
    with reading(folder, chosen, remedy=REMEDY) as path:
        stored = read_ids_png(path)
        return class_ids(stored, ignore=(IGNORE_ID,), offset=0, num_classes=len(VOC_21), path=path)


def _normals(folder: Path, signs: Signs, image: Path) -> NDArray[Any]:
    label_map = _label_map(folder, image)
    with reading(folder, _normals_path(folder, image), remedy=REMEDY) as path:
        normals = read_normals_png(path, signs)
        if label_map.shape != normals.shape[:2]:
            raise SampleError(
                "label_size_differs",
                f"{path}: {normals.shape[:2]}, but its LabelMap is {label_map.shape}",
            )
    is_known = np.isin(label_map, CONTEXT_IDS_WITH_NORMALS)
    return np.where(is_known[..., None], normals, 0).astype(np.float32)


def _human_parts(folder: Path, image: Path) -> NDArray[Any]:
    path = folder / "human_parts" / f"{image.stem}.mat"
    anno = _read_mat(folder, path, "anno")
    with reading(folder, path, remedy=REMEDY):
        ids = paint_parts(anno, path)
    if ids is None:
        return np.full(_image(folder, image).shape[:2], IGNORE_ID, dtype=np.uint8)
    return ids


def _saliency(folder: Path, image: Path) -> NDArray[Any]:
    with reading(folder, folder / "sal_distill" / f"{image.stem}.png", remedy=REMEDY) as path:
        data = read_bytes(path)
        with naming(path):
            grey = read_label_png(data, modes=("L",), what="saliency")
    return (grey > 255 / 2).astype(np.float32)


def _label_map(folder: Path, image: Path) -> NDArray[Any]:
    path = folder / LABEL_MAPS / f"{image.stem}.mat"
    label_map = np.asarray(_read_mat(folder, path, "LabelMap"))
    if label_map.ndim != 2 or label_map.dtype.kind not in "buif" or not label_map.size:
        raise SampleError(
            "decode_failed",
            f"{path}: wanted LabelMap [H, W] of numbers, found {label_map.dtype} "
            f"{label_map.shape}; {REMEDY}",
        )
    return label_map


def _read_mat(folder: Path, path: Path, name: str) -> Any:
    with reading(folder, path, remedy=REMEDY):
        try:
            found = load_mat(path, (name,))
        except FileNotFoundError as error:
            raise SampleError("file_missing", f"{path}: wanted a file, found none") from error
        except ValueError as error:
            raise SampleError("decode_failed", f"{path}: {error}") from error
        if name not in found:
            raise SampleError("decode_failed", f"{path}: no variable {name} in it")
    return found[name]


def _normals_path(folder: Path, image: Path) -> Path:
    return folder / "normals_distill" / f"{image.stem}.png"


def _meta(folder: Path, image: Path) -> dict[str, Any]:
    with reading(folder, _normals_path(folder, image), remedy=REMEDY) as path:
        return {"normals_norm": stored_norm(read_image(path))}


LAYOUT = Layout(
    name="pascal_context",
    title="PASCAL_MT / PASCALContext: 21 classes, human parts, normals, saliency, boundaries",
    detect=detect,
    open=open_layout,
    official_counts={"train": 4998, "test": 5105},
)
