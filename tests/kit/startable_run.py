"""A folder of twelve images with depth and classes, tiny models, and the command that runs it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.kit.folder_files import png
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_captioner_folder, tiny_diffusion_folder

NUM_CLASSES = 3
SPLITS = {"train": range(8), "validation": range(8, 10), "test": range(10, 12)}
KEYS = [f"{i:04d}" for split in SPLITS.values() for i in split]


@dataclass(kw_only=True)
class StartableRun:
    """Everything that a run needs, in a folder; a test breaks a part of it."""

    root: Path
    description: dict[str, Any]
    config: dict[str, Any]
    options: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return Path(self.config["run"]["url"])

    def copy_model(self, field_name: str) -> Path:
        """Give the run a model folder of its own."""
        folder = self.root / field_name
        shutil.copytree(self.config["model"][field_name], folder)
        self.config["model"][field_name] = str(folder)
        return folder

    def rewrite_labels(self, task: str, make: Any, *, keys: list[str] = KEYS) -> None:
        for key in keys:
            png(self.root / f"{task}/{key}.png", make(int(key)))

    def arguments(self) -> list[str]:
        """Write both files; the command's arguments."""
        (self.root / "folder.yaml").write_text(yaml.safe_dump(self.description))
        (self.root / "config.yaml").write_text(yaml.safe_dump(self.config))
        return ["--config", str(self.root / "config.yaml"), *self.options]


def startable_run(root: Path) -> StartableRun:
    for key in KEYS:
        rng = np.random.default_rng(int(key))
        png(root / f"rgb/{key}.png", rng.integers(0, 255, (*_SIZE, 3), dtype=np.uint8))
        png(root / f"depth/{key}.png", rng.integers(1000, 4000, _SIZE).astype(np.uint16))
        png(root / f"semseg/{key}.png", classes(int(key)))
    for split, numbers in SPLITS.items():
        (root / f"{split}.txt").write_text("\n".join(f"{i:04d}" for i in numbers))
    description = {
        "root": str(root),
        "image": "rgb/{key}.png",
        "labels": {
            "depth": {"pattern": "depth/{key}.png", "unit": "mm"},
            "semseg": {"pattern": "semseg/{key}.png", "num_classes": NUM_CLASSES},
        },
        "splits": {split: {"list": f"{split}.txt"} for split in SPLITS},
        "size": [IMAGE_SIZE_PX, IMAGE_SIZE_PX],
    }
    stage = {"steps": 4, "batch_size": 4}
    config = {
        "run": {"url": str(root / "run")},
        "model": {
            "diffusion": str(tiny_diffusion_folder()),
            "captioner": "none",
            "captioner_path": str(tiny_captioner_folder()),
            "device": "cpu",
        },
        "source": {"kind": "folder", "description": str(root / "folder.yaml")},
        "method": {"tasks": ["depth", "semseg"], "num_classes": NUM_CLASSES},
        "creator": {"num_steps": 2},
        "plan": {"rounds": 1, "unit_size": 4},
        "training": {"warm_up": stage, "self_improve": stage},
    }
    return StartableRun(root=root, description=description, config=config)


def classes(seed: int) -> np.ndarray:
    """Class ids in blocks, all classes present."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.arange(16) % NUM_CLASSES).astype(np.uint8).reshape(4, 4)
    return ids.repeat(IMAGE_SIZE_PX // 4, axis=0).repeat(IMAGE_SIZE_PX // 4, axis=1)


_SIZE = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
