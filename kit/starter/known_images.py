"""Measure which images the starter models know, and write it into their folder.

    python -m kit.starter.known_images --starter starter --rooms data/rooms [--others PHOTOGRAPHS]

The limit is taken from the training rooms. Its false alarms are measured on the test rooms, and
with ``--others`` its hits on a folder of images of another kind; both for single images and for
sets of sixteen, which is what a run looks at.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kit.starter.data import Rooms
from perception.diffusion.backbone import load_backbone
from perception.known_images import FOREIGN_SHARE, KNOWN_IMAGES_FILE, restoration_db
from storage.samples.codecs import decode_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WHAT = "rendered rooms of 64x64 pixels"
IMAGE_SIZE = (64, 64)
LIMIT_QUANTILE = 0.01
SET_SIZE = 16
_NUM_SETS = 10_000


def main(arguments: Sequence[str]) -> None:
    """Measure, write ``known_images.json`` and print it."""
    parsed = _parse(arguments)
    folder = parsed.starter / "diffusion"
    backbone = load_backbone(folder)

    def measure(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        return np.array(restoration_db(backbone, images, IMAGE_SIZE))

    known = measure(_rooms(parsed.rooms, "train"))
    limit = float(np.quantile(known, LIMIT_QUANTILE))
    measured = {"test_rooms": _shares(measure(_rooms(parsed.rooms, "test")), limit)}
    if parsed.others is not None:
        files = sorted(path for path in parsed.others.iterdir() if path.is_file())
        others = [decode_image(path.read_bytes()) for path in files[: parsed.limit]]
        measured["others"] = _shares(measure(others), limit)
    content = {
        "what": WHAT,
        "image_size": IMAGE_SIZE,
        "least_psnr_db": round(limit, 3),
        "measured": measured,
    }
    text = json.dumps(content, indent=1) + "\n"
    (folder / KNOWN_IMAGES_FILE).write_text(text)
    sys.stdout.write(text)


def _rooms(folder: Path, split: str) -> list[NDArray[np.uint8]]:
    images = Rooms([str(folder / f"{split}-*.tar")]).images
    return list(images.permute(0, 2, 3, 1).numpy())


def _shares(found: NDArray[np.float64], limit: float) -> dict[str, float]:
    """Share of single images, and of random sets, that are called foreign."""
    is_foreign = found < limit
    sets = np.random.default_rng(0).choice(is_foreign, (_NUM_SETS, SET_SIZE)).mean(axis=1)
    return {
        "images": len(found),
        "median_psnr_db": round(float(np.median(found)), 2),
        "images_below": round(float(is_foreign.mean()), 4),
        f"sets_of_{SET_SIZE}_foreign": round(float((sets > FOREIGN_SHARE).mean()), 4),
    }


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure which images the starter models know.")
    parser.add_argument("--starter", type=Path, default=Path("starter"))
    parser.add_argument("--rooms", type=Path, default=Path("data/rooms"))
    parser.add_argument("--others", type=Path, help="folder of images of another kind")
    parser.add_argument("--limit", type=int, default=256, help="most of them used")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
