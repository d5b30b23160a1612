"""NYUv2 depth as the BTS and VPD script extracts it: official_splits/{train,test}/SCENE/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sources.layouts.protocol import Layout, LayoutOptions, choose_labels
from sources.readers.files import expect_folders, inside, list_files, read_decoded
from sources.readers.image_files import ImageFiles, index_images
from storage.samples.codecs import decode_depth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from sources.protocol import Split

SPLITS: tuple[Split, ...] = ("train", "test")
REMEDY = "run the extraction script again and point --root at the folder with official_splits/"


def detect(root: Path) -> bool:
    """Whether there is a train/SCENE/rgb_NNNNN.jpg."""
    return any(True for _ in (_inside(root) / "train").glob("*/rgb_*.jpg"))


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open ``official_splits/{train,test}/SCENE/{rgb_NNNNN.jpg,sync_depth_NNNNN.png}``.

    Depth is 16-bit millimetres, 0 invalid. A sample's key is ``SCENE_NNNNN``.

    Raises:
        SourceError: If a folder is missing or empty.
    """
    folder = _inside(root)
    expect_folders(folder, SPLITS, remedy=REMEDY)
    return ImageFiles(
        root=root,
        images=index_images({split: _images(folder / split) for split in SPLITS}, root=root),
        labels=choose_labels({"depth": _depth}, options, root=root, remedy=REMEDY),
        remedy=REMEDY,
        meta=lambda image: {"scene_type": image.parent.name},
        notes=(
            f"{root}: the extraction blackens the images outside rows 7 to 473 and columns 7 to "
            "631; scores of depth are usually taken in rows 45 to 470, columns 41 to 600",
        ),
    )


def _inside(root: Path) -> Path:
    return inside(root, "official_splits", holding=".")


def _images(folder: Path) -> Iterator[tuple[str, Path]]:
    paths = list_files(folder, "*/rgb_*.jpg")
    return ((f"{path.parent.name}_{path.stem.removeprefix('rgb_')}", path) for path in paths)


def _depth(image: Path) -> NDArray[Any]:
    path = image.with_name(f"sync_depth_{image.stem.removeprefix('rgb_')}.png")
    return read_decoded(path, decode_depth)


LAYOUT = Layout(
    name="nyu_bts",
    title="NYUv2 images and depth, official_splits/{train,test}/SCENE/ (BTS, VPD)",
    detect=detect,
    open=open_layout,
    official_counts={"train": 795, "test": 654},
    official_size=(480, 640),
)
