"""NYUv2 with normals as Bae et al. and Diff-2-in-1 lay it out: {train,test}/{img,norm,caption}."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import SampleError
from schemas.text import decode_text, without_format_signs
from sources.layouts.protocol import Layout, LayoutOptions, choose_labels
from sources.readers import files
from sources.readers.image_files import ImageFiles, beside, index_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sources.protocol import Split

SPLITS: tuple[Split, ...] = ("train", "test")
REMEDY = "unpack the whole archive and point --root at the folder that holds train/ and test/"


def detect(root: Path) -> bool:
    """Whether there are train/img and train/norm."""
    return files.has_folders(_inside(root), "train/img", "train/norm")


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open ``nyu/{train,test}/{img,norm,caption}/NNNNNN.{png,png,txt}``.

    Captions are optional. Normals are 8-bit RGB, n = 2v / 255 - 1, (0, 0, 0) invalid.

    Raises:
        SourceError: If a folder is missing or empty.
    """
    folder = _inside(root)
    files.expect_folders(
        folder, [f"{split}/{name}" for split in SPLITS for name in ("img", "norm")], remedy=REMEDY
    )
    images = {
        split: [(path.stem, path) for path in files.list_files(folder / split / "img", "*.png")]
        for split in SPLITS
    }
    return ImageFiles(
        root=root,
        images=index_images(images, root=root),
        labels=choose_labels(
            {"normals": lambda image: files.read_normals_png(beside(image, "norm"), options.signs)},
            options,
            root=root,
            remedy=REMEDY,
        ),
        remedy=REMEDY,
        stored_normals=lambda image: files.read_image(beside(image, "norm")),
        caption=_caption,
        notes=tuple(_notes(folder)),
    )


def _inside(root: Path) -> Path:
    return files.inside(root, "nyu", holding="train")


def _caption(image: Path) -> str:
    """The caption; "" if there is none or it cannot be read, for the image and its labels can."""
    try:
        data = files.read_bytes(beside(image, "caption", ".txt"))
        return without_format_signs(decode_text(data)).strip()
    except (SampleError, UnicodeDecodeError):
        return ""


def _notes(folder: Path) -> Iterator[str]:
    for split in SPLITS:
        if not (folder / split / "caption").is_dir():
            yield (
                f"{folder / split / 'caption'}: no captions; a run makes its own with "
                "model.captioner=blip2"
            )


LAYOUT = Layout(
    name="nyu_bae",
    title="NYUv2 images and normals, {train,test}/{img,norm,caption}/NNNNNN.png (Bae et al.)",
    detect=detect,
    open=open_layout,
    official_counts={"train": 795, "test": 654},
    official_size=(480, 640),
)
