"""Small NYUv2 copies in the published formats, and the values that were put in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import scipy.io
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

H, W = 12, 16


@dataclass(frozen=True)
class Pair:
    """One image with labels: uint8 image and normal codes, float32 depth (0 invalid), ids 0..40."""

    image: np.ndarray[Any, Any]
    codes: np.ndarray[Any, Any]
    depth_m: np.ndarray[Any, Any]
    ids: np.ndarray[Any, Any]
    edge: np.ndarray[Any, Any]

    @property
    def vectors(self) -> np.ndarray[Any, Any]:
        """Normals as float32 vectors, zero where invalid."""
        raw = self.codes.astype(np.float64) * 2 / 255 - 1
        is_valid = self.codes.any(axis=-1, keepdims=True)
        unit = raw / np.linalg.norm(raw, axis=-1, keepdims=True)
        return np.where(is_valid, unit, 0).astype(np.float32)


def make_pair(seed: int, *, height: int = H, width: int = W, max_id: int = 40) -> Pair:
    """A pair with an invalid corner of 2 x 3 pixels in every label."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(height, width, 3))
    vectors[..., 2] = np.abs(vectors[..., 2]) + 0.3
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    codes = np.rint((vectors + 1) * 127.5).astype(np.uint8)
    depth_m = rng.integers(500, 9000, size=(height, width)).astype(np.float32) / 1000
    ids = rng.integers(1, max_id + 1, size=(height, width)).astype(np.uint8)
    codes[:2, :3], depth_m[:2, :3], ids[:2, :3] = 0, 0, 0
    return Pair(
        image=rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8),
        codes=codes,
        depth_m=depth_m,
        ids=ids,
        edge=(rng.random((height, width)) < 0.2).astype(np.uint8) * 255,
    )


def save_png(path: Path, array: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def save_npy(path: Path, array: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def write_bae(root: Path, counts: dict[str, int]) -> dict[str, Pair]:
    """``{train,test}/{img,norm,caption}``; keys are six-digit numbers."""
    pairs = {}
    for split, count in counts.items():
        for _ in range(count):
            key = f"{len(pairs):06d}"
            pair = pairs[key] = make_pair(len(pairs))
            save_png(root / split / "img" / f"{key}.png", pair.image)
            save_png(root / split / "norm" / f"{key}.png", pair.codes)
            caption = root / split / "caption" / f"{key}.txt"
            caption.parent.mkdir(exist_ok=True)
            caption.write_text(f"room {key}\n")
    return pairs


def write_atrc(root: Path, train: int = 3, test: int = 2) -> dict[str, Pair]:
    """``NYUDv2/{images,segmentation,depth,normals,edge,gt_sets}``, PNG."""
    pairs = _numbered(train + test)
    for name, pair in pairs.items():
        save_png(root / "images" / f"{name}.png", pair.image)
        save_png(root / "segmentation" / f"{name}.png", pair.ids)
        save_npy(root / "depth" / f"{name}.npy", pair.depth_m)
        save_png(root / "normals" / f"{name}.png", pair.codes)
        save_png(root / "edge" / f"{name}.png", pair.edge)
    _write_lists(root, list(pairs), train)
    return pairs


def write_tgz(root: Path, train: int = 3, test: int = 2) -> dict[str, Pair]:
    """``NYUD_MT``: JPEG images, normals and edges as arrays."""
    pairs = _numbered(train + test)
    (root / "images").mkdir(parents=True)
    for name, pair in pairs.items():
        Image.fromarray(pair.image).save(root / "images" / f"{name}.jpg")
        save_png(root / "segmentation" / f"{name}.png", pair.ids)
        save_npy(root / "depth" / f"{name}.npy", pair.depth_m)
        save_npy(root / "normals" / f"{name}.npy", pair.vectors)
        save_npy(root / "edge" / f"{name}.npy", (pair.edge / 255).astype(np.float32))
    _write_lists(root, list(pairs), train)
    return pairs


def write_mtpsl(root: Path, train: int = 3, test: int = 2) -> dict[str, Pair]:
    """``{train,val}/{image,label,depth,normal}/I.npy``; 13 classes, -1 ignored."""
    pairs = {}
    for split, folder, count in (("train", "train", train), ("test", "val", test)):
        for number in range(count):
            pair = make_pair(100 * len(folder) + number, max_id=13)
            pairs[f"{split}_{number:06d}"] = pair
            arrays = {
                "image": (pair.image / 255).astype(np.float32),
                "label": pair.ids.astype(np.float32) - 1,
                "depth": pair.depth_m[..., None],
                "normal": pair.vectors,
            }
            for name, array in arrays.items():
                save_npy(root / folder / name / f"{number}.npy", array)
    return pairs


def write_bts(root: Path, train: int = 3, test: int = 2) -> dict[str, Pair]:
    """``official_splits/{train,test}/SCENE``: JPEG images, depth in 16-bit millimetres."""
    pairs = {}
    for number in range(train + test):
        split = "train" if number < train else "test"
        pair = pairs[f"kitchen_{number:05d}"] = make_pair(number)
        folder = root / "official_splits" / split / "kitchen"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pair.image).save(folder / f"rgb_{number:05d}.jpg")
        millimetres = np.rint(pair.depth_m * 1000).astype(np.uint16)
        save_png(folder / f"sync_depth_{number:05d}.png", millimetres)
    return pairs


def write_mat(root: Path, train: int = 3, test: int = 2) -> dict[str, Pair]:
    """``nyu_depth_v2_labeled.mat`` with MATLAB's axes reversed, and ``splits.mat``.

    ``labels`` holds 850 + id where the pair's id is not 0; :func:`write_class_map` undoes that.
    """
    pairs = {f"{number:06d}": make_pair(number) for number in range(train + test)}
    root.mkdir(parents=True, exist_ok=True)
    ids = np.stack([pair.ids.T.astype(np.uint16) for pair in pairs.values()])
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.stack([pair.image.transpose(2, 1, 0) for pair in pairs.values()])
        file["depths"] = np.stack([pair.depth_m.T for pair in pairs.values()])
        file["labels"] = np.where(ids > 0, ids + 850, 0).astype(np.uint16)
        scenes = [f"kitchen_{number // 2:04d}" for number in range(len(pairs))]
        references = []
        for i, scene in enumerate(scenes):
            text = file.create_dataset(
                f"#refs#/{i}", data=np.array([[ord(c)] for c in scene], "u2")
            )
            references.append(text.ref)
        file["scenes"] = np.array([references], dtype=h5py.ref_dtype)
    # Written out of order and counted from 1, as the published file has them.
    numbers = np.arange(1, train + test + 1)
    scipy.io.savemat(
        root / "splits.mat",
        {"trainNdxs": numbers[test:, None], "testNdxs": numbers[:test, None]},
    )
    return pairs


def write_class_map(path: Path) -> None:
    """``classMapping40.mat`` for the ids of :func:`write_mat`; of 894 ids, 1 to 850 are ignored."""
    table = np.zeros((1, 894))
    table[0, 850:890] = np.arange(1, 41)
    scipy.io.savemat(path, {"mapClass": table, "className": np.array(["wall"], dtype=object)})


def _numbered(count: int) -> dict[str, Pair]:
    return {f"{number:04d}": make_pair(number) for number in range(count)}


def _write_lists(root: Path, names: list[str], train: int) -> None:
    (root / "gt_sets").mkdir(parents=True)
    (root / "gt_sets" / "train.txt").write_text("\n".join(names[:train]) + "\n")
    (root / "gt_sets" / "val.txt").write_text("\n".join(names[train:]) + "\n")
