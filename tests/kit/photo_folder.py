"""A folder as people have them: small pictures of a wall, a floor and a box, with their maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from schemas.config import RunConfig
from schemas.config_file import parse_config

HEIGHT, WIDTH = 48, 64


def scene(seed: int) -> dict[str, np.ndarray]:
    """``image`` uint8, ``depth`` in metres, ``ids`` 0 wall, 1 floor, 2 box, ``normals`` unit."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ids = (y > HEIGHT // 2).astype(np.uint8)
    top, left = random.integers(4, HEIGHT // 2), random.integers(4, WIDTH // 2)
    ids[top : top + HEIGHT // 3, left : left + WIDTH // 3] = 2
    colours = random.integers(30, 226, (3, 3))
    image = colours[ids] + random.normal(0, 6, (HEIGHT, WIDTH, 3))
    normals = np.array([(0, 0, 1), (0, 1, 0.2), (0.3, 0, 0.95)])[ids]
    return {
        "image": np.clip(image, 0, 255).astype(np.uint8),
        "depth": 1.0 + 2 * (1 - y / HEIGHT) + x / WIDTH,
        "ids": ids,
        "normals": normals / np.linalg.norm(normals, axis=-1, keepdims=True),
    }


def save(path: Path, array: np.ndarray) -> None:
    """As a picture, or as NumPy's file where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def normals_code(normals: np.ndarray) -> np.ndarray:
    return np.rint((normals + 1) * 127.5).astype(np.uint8)


def write_photos(root: Path, count: int = 8, **maps: Any) -> Path:
    """Write ``rgb/`` and a folder for each of ``maps``: from a scene to the array to store."""
    for seed in range(count):
        made = scene(seed)
        save(root / f"rgb/{seed:04d}.jpg", made["image"])
        for name, encode in maps.items():
            save(root / f"{name}/{seed:04d}.png", encode(made))
    return root


def config_of(root: Path, labels: dict[str, Any], **source: Any) -> RunConfig:
    """A configuration of a folder of such photographs with every third one held out."""
    description = root.parent / "photos.yaml"
    tree = {
        "name": "photos",
        "root": str(root),
        "image": "rgb/{key}.jpg",
        "labels": labels,
        "splits": {"train": {"all": True}, "test": {"hold_out": {"every": 3}}},
        "size": [32, 32],
        "fit": "stretch",
    }
    description.write_text(yaml.safe_dump(tree))
    stage = {"steps": 2, "batch_size": 2}
    return parse_config(
        {
            "run": {"url": str(root.parent / "run")},
            "model": {"captioner": "none"},
            "source": {"kind": "folder", "description": str(description), **source},
            "method": {"tasks": list(labels), "num_classes": 3},
            "training": {"warm_up": stage, "self_improve": stage},
        },
        origin="test",
    )
