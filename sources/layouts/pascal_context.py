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
from sources.layouts.classes import VOC_21
from sources.layouts.protocol import Layout, LayoutOptions, choose_labels
from sources.readers import files
from sources.readers.image_files import ImageFiles, ReadArray, beside, index_images
from sources.readers.matlab import load_mat
from sources.readers.pascal_parts import paint_parts
from storage.samples.members import read_label_png

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from schemas.sample import Task
    from sources.protocol import Split
    from sources.readers.files import Signs

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


def _ids(text: str) -> tuple[int, ...]:
    """Number at the end of each ``name number``."""
    return tuple(int(each.rsplit(" ", 1)[1]) for each in text.split(", "))


CONTEXT_IDS_WITH_NORMALS = _ids(
    "air conditioner 3, antenna 4, ashtray 6, bag 9, ball 10, balloon 11, barrel 13, basket 15, "
    "bathtub 17, bed 18, bench 22, bicycle 23, blackboard 29, board 30, book 33, bottle 34, "
    "bowl 36, box 37, bracelet 38, brick 39, broom 41, bucket 43, cabinet 46, cake 49, "
    "calculator 50, calendar 51, camera 53, can 55, candle 56, car 59, cart 61, case 62, cat 65, "
    "cd 66, ceiling 68, cell phone 69, chair 72, chessboard 73, clock 78, coffee machine 83, "
    "comb 84, computer 85, cone 87, container 88, corkscrew 95, counter 96, crate 101, cup 104, "
    "curtain 105, cutting board 107, dishwasher 111, dog 113, door 115, drum 122, duck 124, "
    "envelope 135, fan 141, faucet 142, fax machine 143, fire extinguisher 146, fish tank 150, "
    "flag 154, flashlight 157, floor 158, flower 159, fork 165, fruit 172, furnace 174, "
    "glass 181, globe 183, glove 184, guitar 191, hammer 193, handle 195, hanger 197, hat 199, "
    "heater 202, ipod 213, ironing board 215, jar 216, key 219, keyboard 220, knife 223, "
    "ladder 225, laptop 228, lid 230, light 232, light bulb 233, lock 238, machine 239, map 242, "
    "mask 243, mattress 246, microphone 250, microwave 251, mirror 252, money 255, mouse 260, "
    "mouse pad 261, napkin 263, oven 269, pan 272, paper 273, paper cutter 275, pen 281, "
    "pencil 283, person 284, photo 285, piano 286, picture 287, pig 288, pillow 290, pipe 291, "
    "pitcher 292, plant 293, plate 295, pool table 304, pot 307, printer 309, projector 310, "
    "radiator 314, radio 315, range hood 319, remote control 323, rope 329, rug 330, ruler 331, "
    "scale 336, sculpture 342, sewing machine 345, shelves 349, shoe 350, shopping cart 351, "
    "shovel 352, sign 355, sink 357, sofa 368, spatula 370, speaker 371, spoon 374, stapler 379, "
    "stick 380, stool 383, stove 384, table 397, tape 401, telephone 403, tent 405, toaster 407, "
    "toilet 408, toothbrush 411, towel 412, toy 413, toy car 414, trampoline 417, tray 419, "
    "tricycle 421, trophy 423, tvmonitor 427, typewriter 429, umbrella 430, vacuum cleaner 432, "
    "wall 440, wallet 441, wardrobe 442, washing machine 443, watch 444, water dispenser 446, "
    "window 454, wire 457"
)
"""Ids in ``LabelMap`` of the names that are among the 894 of NYUv2 too, and tvmonitor: what the
normals were distilled from knows no others."""


def detect(root: Path) -> bool:
    """Whether there are JPEGImages and ImageSets/Context."""
    return files.has_folders(_inside(root), "JPEGImages", "ImageSets/Context")


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open the data set; a sample's key is its name, such as ``2008_000002``.

    Raises:
        SourceError: If a list or a folder that all samples need is missing, or scikit-image is,
            which the boundaries need.
    """
    folder = _inside(root)
    files.expect_folders(folder, ("JPEGImages", "ImageSets/Context"), remedy=REMEDY)
    missing = {task: _missing(folder, task) for task in NEEDED}
    readers: dict[Task, ReadArray] = {
        "normals": lambda image: _normals(image, options.signs),
        "semseg": _semseg,
        "human_parts": _human_parts,
        "saliency": _saliency,
        "boundaries": lambda image: boundaries_of(_label_map(image)),
    }
    present = {task: read for task, read in readers.items() if not missing[task]}
    labels = choose_labels(present, options, root=folder, remedy=REMEDY)
    if "boundaries" in labels:
        _expect_skimage(folder)
    return ImageFiles(
        root=root,
        images=index_images(
            {split: _listed(folder, name) for split, name in LISTS.items()}, root=folder
        ),
        labels=labels,
        remedy=REMEDY,
        stored_normals=lambda image: files.read_image(beside(image, "normals_distill", ".png")),
        classes=VOC_21,
        notes=tuple(
            f"{folder / name}: not there; go on without {task}, or {REMEDY}"
            for task, names in missing.items()
            for name in names
        ),
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
    return files.inside(root, *ARCHIVES, holding="JPEGImages")


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
    names = files.read_list(folder / "ImageSets" / "Context" / f"{part}.txt", remedy=REMEDY)
    return [(name, folder / "JPEGImages" / f"{name}.jpg") for name in names]


def _semseg(image: Path) -> NDArray[Any]:
    choices = [beside(image, name, ".png") for name in (VOC, CONTEXT)]
    path = next((path for path in choices if path.is_file()), choices[-1])
    stored = files.read_ids_png(path)
    return files.class_ids(
        stored, ignore=(IGNORE_ID,), offset=0, num_classes=len(VOC_21), path=path
    )


def _normals(image: Path, signs: Signs) -> NDArray[Any]:
    label_map = _label_map(image)
    path = beside(image, "normals_distill", ".png")
    normals = files.read_normals_png(path, signs)
    if label_map.shape != normals.shape[:2]:
        raise SampleError(
            "label_size_differs",
            f"{path}: {normals.shape[:2]}, but its LabelMap is {label_map.shape}",
        )
    is_known = np.isin(label_map, CONTEXT_IDS_WITH_NORMALS)
    return np.where(is_known[..., None], normals, 0).astype(np.float32)


def _human_parts(image: Path) -> NDArray[Any]:
    path = beside(image, "human_parts", ".mat")
    ids = paint_parts(_read_mat(path, "anno"), path)
    if ids is None:
        return np.full(files.read_image(image).shape[:2], IGNORE_ID, dtype=np.uint8)
    return ids


def _saliency(image: Path) -> NDArray[Any]:
    path = beside(image, "sal_distill", ".png")
    grey = files.read_decoded(path, partial(read_label_png, modes=("L",), what="saliency"))
    return (grey > 255 / 2).astype(np.float32)


def _label_map(image: Path) -> NDArray[Any]:
    path = beside(image, LABEL_MAPS, ".mat")
    label_map = np.asarray(_read_mat(path, "LabelMap"))
    if label_map.ndim != 2 or label_map.dtype.kind not in "buif" or not label_map.size:
        raise SampleError(
            "decode_failed",
            f"{path}: wanted LabelMap [H, W] of numbers, found {label_map.dtype} {label_map.shape}",
        )
    return label_map


def _read_mat(path: Path, name: str) -> Any:
    data = files.read_bytes(path)
    try:
        found = load_mat(data, (name,))
    except ValueError as error:
        raise SampleError("decode_failed", f"{path}: {error}") from error
    if name not in found:
        raise SampleError("decode_failed", f"{path}: no variable {name} in it")
    return found[name]


LAYOUT = Layout(
    name="pascal_context",
    title="PASCAL_MT / PASCALContext: 21 classes, human parts, normals, saliency, boundaries",
    detect=detect,
    open=open_layout,
    official_counts={"train": 4998, "test": 5105},
)
