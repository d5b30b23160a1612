"""A small PASCAL-Context in the published format, and the values that were put in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.io
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

H, W = 9, 14
TRAIN = ("2008_000002", "2008_000003", "2010_000005")
VAL = ("2009_000007",)
NAMES = TRAIN + VAL

Part = tuple[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Pair:
    """What one image's files hold; ``parts`` are those of the first person, in their order."""

    semseg: np.ndarray[Any, Any]
    label_map: np.ndarray[Any, Any]
    codes: np.ndarray[Any, Any]
    saliency: np.ndarray[Any, Any]
    parts: tuple[Part, ...]


def struct_array(elements: list[dict[str, Any]], names: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """A 1 x N struct array, as MATLAB has it."""
    array = np.empty((1, len(elements)), dtype=[(name, object) for name in names])
    for number, element in enumerate(elements):
        for name in names:
            array[0, number][name] = element[name]
    return array


def make_object(class_ind: int, parts: tuple[Part, ...]) -> dict[str, Any]:
    """One object of an annotation; without parts, ``parts`` is MATLAB's []."""
    whole = [part_mask.astype(bool) for _, part_mask in parts] or [patch(0, 0)]
    mask = np.logical_or.reduce(whole).astype(np.uint8)
    fields = [{"part_name": name, "mask": part_mask} for name, part_mask in parts]
    nested = struct_array(fields, ("part_name", "mask")) if parts else np.zeros((0, 0))
    name = "person" if class_ind == 15 else "dog"
    return {"class": name, "class_ind": class_ind, "mask": mask, "parts": nested}


def write_anno(path: Path, objects: list[dict[str, Any]]) -> None:
    """``human_parts/NAME.mat``: the struct ``anno`` with ``imname`` and ``objects``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nested = struct_array(objects, ("class", "class_ind", "mask", "parts"))
    anno = struct_array([{"imname": path.stem, "objects": nested}], ("imname", "objects"))
    scipy.io.savemat(path, {"anno": anno}, do_compression=True)


def patch(top: int, left: int, height: int = 1, width: int = 1) -> np.ndarray[Any, Any]:
    """A mask of a rectangle, as MATLAB's logical is stored."""
    mask = np.zeros((H, W), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def save_png(path: Path, array: np.ndarray[Any, Any], *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette:
        picture = picture.convert("P")
        picture.putdata(array.ravel().tolist())
        picture.putpalette([(37 * i) % 256 for i in range(768)])
    picture.save(path)


def save_label_map(path: Path, label_map: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"LabelMap": label_map.astype(np.uint16)}, do_compression=True)


def make_pair(seed: int) -> Pair:
    """Random labels; regions of the map are blocks of 3 x 2."""
    rng = np.random.default_rng(seed)
    semseg = rng.integers(0, 21, (H, W)).astype(np.uint8)
    semseg[0, :3] = (255, 0, 20)
    blocks = rng.choice([72, 158, 360, 420, 427, 431, 440, 459], size=(3, 7))
    vectors = rng.normal(size=(H, W, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    saliency = rng.integers(0, 256, (H, W)).astype(np.uint8)
    saliency[0, :4] = (127, 128, 0, 255)
    return Pair(
        semseg=semseg,
        label_map=np.kron(blocks, np.ones((3, 2), int)),
        codes=np.rint((vectors + 1) * 127.5).astype(np.uint8),
        saliency=saliency,
        parts=(("torso", patch(2, 3, 4, 4)), ("head", patch(1, 4, 2, 2)), ("luarm", patch(4, 1))),
    )


def write_pascal(root: Path) -> dict[str, Pair]:
    """All folders; the first image has its classes in VOC12 (palette), the others in the other.

    The last image has a dog and no person.
    """
    pairs = {name: make_pair(number) for number, name in enumerate(NAMES)}
    (root / "JPEGImages").mkdir(parents=True)
    for number, (name, pair) in enumerate(pairs.items()):
        grey = np.full((H, W, 3), 50 * (number + 1), np.uint8)
        Image.fromarray(grey).save(root / "JPEGImages" / f"{name}.jpg")
        folder = "VOC12" if number == 0 else "pascal-context"
        save_png(root / "semseg" / folder / f"{name}.png", pair.semseg, palette=number == 0)
        save_label_map(root / "pascal-context" / "trainval" / f"{name}.mat", pair.label_map)
        save_png(root / "normals_distill" / f"{name}.png", pair.codes)
        save_png(root / "sal_distill" / f"{name}.png", pair.saliency)
        class_ind = 12 if name in VAL else 15
        write_anno(root / "human_parts" / f"{name}.mat", [make_object(class_ind, pair.parts)])
    lists = root / "ImageSets" / "Context"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(TRAIN) + "\n")
    (lists / "val.txt").write_text("\n".join(VAL) + "\n")
    return pairs
