"""A small Cityscapes in its two layouts, and the values that were put in."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

H, W = 8, 16
KEYS = {
    "train": ("aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313"),
    "test": ("lindau_000000_000019",),
}
FOLDER_OF = {"train": "train", "test": "val"}
BASELINE_M, FOCAL_PX = 0.209313, 2262.52


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def path_of(root, kind, split, key, ending):
    return root / kind / FOLDER_OF[split] / key.split("_")[0] / f"{key}_{ending}"


def write_cityscapes(root):
    """Write four images; returns image, label ids and stored disparity by key."""
    written = {}
    for split, keys in KEYS.items():
        for key in keys:
            rng = np.random.default_rng(len(written))
            image = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
            ids = rng.permutation(np.arange(H * W) % 34).reshape(H, W).astype(np.uint8)
            disparity = rng.integers(2000, 32258, (H, W)).astype(np.uint16)
            disparity[0, :3] = (0, 1, 257)
            written[key] = (image, ids, disparity)
            save(path_of(root, "leftImg8bit", split, key, "leftImg8bit.png"), image)
            save(path_of(root, "gtFine", split, key, "gtFine_labelIds.png"), ids)
            save(path_of(root, "disparity", split, key, "disparity.png"), disparity)
            camera = path_of(root, "camera", split, key, "camera.json")
            camera.parent.mkdir(parents=True, exist_ok=True)
            document = {"extrinsic": {"baseline": BASELINE_M, "pitch": 0.03}}
            camera.write_text(json.dumps({**document, "intrinsic": {"fx": FOCAL_PX, "u0": 1096.9}}))
    return written


def write_mtpsl(root, train=3, test=1, sets=(7, 19)):
    """Write the arrays; returns image and stored arrays by key."""
    written = {}
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            rng = np.random.default_rng(10 * len(split) + number)
            image = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
            disparity = (rng.integers(1, 32258, (H, W, 1)) / 65535).astype(np.float32)
            disparity[0, :2] = 0
            arrays = {"image": (image / 255).astype(np.float32), "depth": disparity}
            for classes in sets:
                ids = rng.permutation(np.arange(H * W) % (classes + 1) - 1).reshape(H, W)
                arrays[f"label_{classes}"] = ids.astype(np.float32)
            for name, array in arrays.items():
                save(root / FOLDER_OF[split] / name / f"{number}.npy", array)
            written[f"{split}_{number:06d}"] = (image, arrays)
    return written
