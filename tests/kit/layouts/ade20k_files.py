"""A small ADE20K in the published format, and the ids that were put in."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIZES = {"ADE_train_00000001": (8, 12), "ADE_train_00000002": (10, 6), "ADE_val_00000001": (7, 9)}
ARCHIVE = "ADEChallengeData2016"


def part_of(name):
    return "training" if "train" in name else "validation"


def write_ade20k(root):
    """Write three images; returns the stored ids. Each image is one grey, so JPEG keeps it."""
    stored = {}
    for number, (name, size) in enumerate(SIZES.items()):
        ids = ((np.arange(size[0] * size[1]) + 50 * number) % 151).astype(np.uint8).reshape(size)
        ids[0, :3] = (0, 1, 150)
        stored[name] = ids
        for kind, suffix, array in (
            ("images", ".jpg", np.full((*size, 3), 40 * (number + 1), np.uint8)),
            ("annotations", ".png", ids),
        ):
            path = root / kind / part_of(name) / (name + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    lines = [f"{i} \t0.1\t10\t1\tname{i}, other {i}, third" for i in range(1, 151)]
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(lines))
    return stored
