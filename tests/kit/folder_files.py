"""A user's own folder of ten images with labels of all tasks, and its description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from schemas.config_source import FolderSource as FolderConfig
from schemas.sample import TASKS, Sample, UnreadableSample
from sources.folder import FolderSource

HEIGHT, WIDTH = 12, 16


def png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_sample(root: Path, key: str, *, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    png(root / f"rgb/{key}.png", np.full((*size, 3), 100, np.uint8))
    png(root / f"normal/{key}.png", np.broadcast_to(np.uint8([128, 255, 128]), (*size, 3)).copy())
    png(root / f"depth/{key}.png", np.full(size, 2500, np.uint16))
    png(root / f"class/{key}.png", np.full(size, 3, np.uint8))
    png(root / f"parts/{key}.png", np.full(size, 40, np.uint8))
    png(root / f"salient/{key}.png", np.full(size, 255, np.uint8))
    edge = root / f"edge/{key}.npy"
    edge.parent.mkdir(parents=True, exist_ok=True)
    np.save(edge, np.full(size, 0.25, np.float32))


def description(root: Path) -> dict[str, Any]:
    return {
        "name": "mine",
        "root": str(root),
        "image": "rgb/{key}.png",
        "labels": {
            "normals": {"pattern": "normal/{key}.png"},
            "depth": {"pattern": "depth/{key}.png", "unit": "mm"},
            "semseg": {
                "pattern": "class/{key}.png",
                "num_classes": 5,
                "ignore": [0],
                "id_offset": -1,
            },
            "human_parts": {"pattern": "parts/{key}.png", "id_map": {0: 0, 40: 6}},
            "saliency": {"pattern": "salient/{key}.png"},
            "boundaries": {"pattern": "edge/{key}.npy"},
        },
        "splits": {"train": {"list": "train.txt"}},
        "size": [6, 6],
    }


def write_folder(root: Path) -> dict[str, Any]:
    """Write ten samples and the list of their keys; returns the description."""
    keys = [f"{i:04d}" for i in range(10)]
    for key in keys:
        write_sample(root, key)
    (root / "train.txt").write_text("# my keys\n" + "\n".join(keys) + "\n")
    return description(root)


def open_folder(
    tree: dict[str, Any], tmp_path: Path, tasks: Any = TASKS, **config: Any
) -> FolderSource:
    """Write a description and open it."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(tree))
    return FolderSource(FolderConfig(description=str(file), **config), tasks)


def read_all(source: FolderSource, split: Any = "train") -> list[Sample | UnreadableSample]:
    return [found for shard in source.shards(split) for found in source.read(shard)]
