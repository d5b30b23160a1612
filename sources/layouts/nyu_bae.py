"""NYUv2 with normals as Bae et al. and Diff-2-in-1 lay it out: {train,test}/{img,norm,caption}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.errors import SampleError
from sources.layouts.protocol import Layout, LayoutOptions, choose_tasks
from sources.readers.files import expect_folders, read_image, read_normals_png, stored_norm
from sources.readers.image_files import ImageFiles, index_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from schemas.sample import Task
    from sources.protocol import Split

SPLITS: tuple[Split, ...] = ("train", "test")
REMEDY = "unpack the whole archive and point --root at the folder that holds train/ and test/"


def detect(root: Path) -> bool:
    """Whether there are train/img and train/norm."""
    folder = _inside(root)
    return all((folder / "train" / name).is_dir() for name in ("img", "norm"))


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open ``nyu/{train,test}/{img,norm,caption}/NNNNNN.{png,png,txt}``.

    Captions are optional. Normals are 8-bit RGB, n = 2v / 255 - 1, (0, 0, 0) invalid.

    Raises:
        SourceError: If a folder is missing or empty.
    """
    folder = _inside(root)
    expect_folders(
        folder, [f"{split}/{name}" for split in SPLITS for name in ("img", "norm")], remedy=REMEDY
    )
    images = {split: _images(folder / split / "img") for split in SPLITS}
    keys, paths = index_images(images, root=root)
    signs = options.normals_signs or (1.0, 1.0, 1.0)
    present: tuple[Task, ...] = ("normals",)
    tasks = choose_tasks(present, options, root=root)
    return ImageFiles(
        root=root,
        keys=keys,
        images=paths,
        labels={task: lambda image: read_normals_png(_norm(image), signs) for task in tasks},
        caption=_caption,
        meta=_meta,
        notes=tuple(_notes(folder)),
    )


def _inside(root: Path) -> Path:
    return root / "nyu" if (root / "nyu" / "train").is_dir() else root


def _images(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((path.stem, path) for path in sorted(folder.glob("*.png")))


def _norm(image: Path) -> Path:
    return image.parents[1] / "norm" / image.name


def _meta(image: Path) -> dict[str, Any]:
    return {"normals_norm": stored_norm(read_image(_norm(image)))}


def _caption(image: Path) -> str:
    path = image.parents[1] / "caption" / f"{image.stem}.txt"
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise SampleError("caption_invalid", f"{path}: wanted UTF-8 text: {error}") from error


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
