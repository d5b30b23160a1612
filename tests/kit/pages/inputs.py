"""What a page takes for granted: photographs, a folder with labels, an archive, a finished run."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from runs.directory import claim_run_directory
from runs.local_loop import improve_locally
from schemas.config_file import parse_config
from sources.rooms_classes import CLASS_ID, saliency_of
from storage.files.stores import open_store
from tests.kit.layouts.small_copies import COPIES
from tests.kit.pages.small import make_small
from tests.kit.run_reader import members_by_key
from trainers.train_stage import train_stage_locally

NUM_PHOTOGRAPHS = 24
NUM_WITH_MASKS = 32


RUNS = {
    "demo": ("configs/rooms_demo.yaml", {}),
    "mine": ("configs/methods/invpt_rooms.yaml", {"tasks": ["normals", "depth", "semseg"]}),
}
"""Configuration of each finished run, and what is changed of its method."""


def make_run(name: str, desk: Path) -> Path:
    """A small real run, as ``runs/NAME``."""
    file, method = RUNS[name]
    tree = make_small(yaml.safe_load((desk / file).read_text()))
    tree["method"] |= method
    tree["run"]["url"] = f"runs/{name}"
    with contextlib.chdir(desk):
        config = parse_config(tree, origin=file)
        store = open_store(config.run.url)
        claim_run_directory(store, config)
        train_stage_locally(config, "warm_up")
        improve_locally(config, store)
    return desk / "runs" / name


def photographs(desk: Path) -> None:
    """``photograph.jpg``, ``photo.jpg`` and a folder of two."""
    rooms = members_by_key(next((desk / "data" / "rooms").glob("train-*.tar")))
    (desk / "photographs").mkdir()
    names = ("photograph.jpg", "photo.jpg", "photographs/one.jpg", "photographs/two.png")
    for name, members in zip(names, rooms.values(), strict=False):
        (desk / "image.png").write_bytes(members["image.png"])
        Image.open(desk / "image.png").resize((96, 72)).save(desk / name)


def folder_of_all_tasks(desk: Path) -> None:
    """``photos/`` with images and the labels of every task, as the how-to describes it."""
    root, size = desk / "photos", (48, 64)
    keys = [f"{i:04d}" for i in range(NUM_PHOTOGRAPHS)]
    for i, key in enumerate(keys):
        random = np.random.default_rng(i)
        coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
        maps = {
            f"rgb/{key}.jpg": coarse.repeat(8, 0).repeat(8, 1),
            f"normal/{key}.png": np.broadcast_to(np.uint8([128, 255, 128]), (*size, 3)),
            f"depth/{key}.png": random.integers(800, 9000, size, np.uint16),
            f"classes/{key}.png": random.integers(0, 41, size, np.uint8),
            f"parts/{key}.png": random.choice(np.uint8([0, 13, 2]), size),
            f"salient/{key}.png": random.choice(np.uint8([0, 128, 255]), size),
        }
        for name, array in maps.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(array)).save(path)
        for folder in ("captions", "edges"):
            (root / folder).mkdir(exist_ok=True)
        (root / "captions" / f"{key}.txt").write_text(f"a room, number {i}\n")
        np.save(root / "edges" / f"{key}.npy", random.random(size, np.float32))
    (root / "train.txt").write_text("\n".join(keys[:-4]) + "\n")
    (root / "test.txt").write_text("\n".join(keys[-4:]) + "\n")


def photographs_with_masks(desk: Path) -> None:
    """``photos/``: 32 rooms with masks of shell, floor, furniture; ``new_photos/``: two without."""
    rooms = members_by_key(next((desk / "data" / "rooms").glob("train-*.tar")))
    for folder in ("photos/images", "photos/masks", "new_photos"):
        (desk / folder).mkdir(parents=True)
    for i, members in enumerate(list(rooms.values())[:NUM_WITH_MASKS]):
        image, ids = (Image.open(io.BytesIO(members[name])) for name in ("image.png", "semseg.png"))
        image.resize((96, 72)).save(desk / "photos" / "images" / f"{i:04d}.jpg")
        stored = np.asarray(ids.resize((96, 72), Image.Resampling.NEAREST))
        classes = np.where(saliency_of(stored) > 0, 2, stored == CLASS_ID["floor"])
        mask = Image.fromarray(classes.astype(np.uint8))
        mask.save(desk / "photos" / "masks" / f"{i:04d}.png")
        if i < 2:
            image.save(desk / "new_photos" / f"{NUM_WITH_MASKS + i:04d}.jpg")


def photographs_of_all_kinds(desk: Path) -> None:
    """Both."""
    photographs(desk)
    photographs_with_masks(desk)


def archive(desk: Path) -> None:
    COPIES["nyu_bae"](desk / "downloads" / "nyu")


def run_of_operations(desk: Path) -> None:
    """``RUN`` and ``CONFIG``, as the page calls them."""
    (desk / "RUN").symlink_to("runs/demo")
    shutil.copy(desk / "configs" / "rooms_demo.yaml", desk / "CONFIG")


INPUTS: dict[str, Callable[[Path], None]] = {
    "README.md": photographs_of_all_kinds,
    "using-a-run.md": photographs,
    "first-day.md": photographs_with_masks,
    "howto-your-own-folder.md": folder_of_all_tasks,
    "datasets.md": archive,
    "operations.md": run_of_operations,
}
"""What the reader of a page has before its first block."""
