"""ADE20K for scene parsing, ADEChallengeData2016: 150 classes, images of many sizes.

``images/{training,validation}/NAME.jpg``; ``annotations/{training,validation}/NAME.png``, one
channel, 0 = other (ignored), 1..150; ``objectInfo150.txt``, names of the classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.errors import SourceError
from sources.layouts.protocol import Layout, LayoutOptions, choose_labels
from sources.readers import files
from sources.readers.image_files import ImageFiles, index_images

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sources.protocol import Split

ARCHIVE = "ADEChallengeData2016"
FOLDERS: dict[Split, str] = {"train": "training", "test": "validation"}
"""The folder ``validation`` holds the 2 000 images that published scores are of."""

NUM_CLASSES = 150
NAMES_FILE = "objectInfo150.txt"
REMEDY = (
    f"unpack {ARCHIVE}.zip (scene parsing, 150 classes; not the full ADE20K of 3 000 and more "
    "names) again and point --root at the folder that holds images/ and annotations/"
)


def detect(root: Path) -> bool:
    """Whether there are images/training and annotations/training."""
    return files.has_folders(_inside(root), "images/training", "annotations/training")


def open_layout(root: Path, options: LayoutOptions) -> ImageFiles:
    """Open the data set; a sample's key is the name of its image.

    Raises:
        SourceError: If a folder is missing or empty, or the file of names is malformed.
    """
    folder = _inside(root)
    kinds = ("images", "annotations")
    names = [f"{kind}/{split}" for split in FOLDERS.values() for kind in kinds]
    files.expect_folders(folder, names, remedy=REMEDY)
    images = {
        split: [(path.stem, path) for path in files.list_files(folder / "images" / name, "*.jpg")]
        for split, name in FOLDERS.items()
    }
    class_names = _read_names(folder / NAMES_FILE)
    missing = f"{folder / NAMES_FILE}: not there, so the classes have no names; {REMEDY}"
    return ImageFiles(
        root=root,
        images=index_images(images, root=folder),
        labels=choose_labels({"semseg": _semseg}, options, root=folder, remedy=REMEDY),
        remedy=REMEDY,
        classes=class_names or NUM_CLASSES,
        notes=() if class_names else (missing,),
    )


def _inside(root: Path) -> Path:
    return files.inside(root, ARCHIVE, holding="images")


def _semseg(image: Path) -> NDArray[Any]:
    path = image.parents[2] / "annotations" / image.parent.name / f"{image.stem}.png"
    return files.class_ids(
        files.read_ids_png(path), ignore=(0,), offset=-1, num_classes=NUM_CLASSES, path=path
    )


def _read_names(path: Path) -> tuple[str, ...]:
    """First name of each class; of ``2  0.1072  6046  612  building, edifice`` it is building.

    Raises:
        SourceError: If a class has no line.
    """
    if not path.is_file():
        return ()
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    names = {row[0].strip(): row[-1].split(",")[0].strip() for row in rows if len(row) > 1}
    wanted = [str(number) for number in range(1, NUM_CLASSES + 1)]
    missing = [number for number in wanted if not names.get(number)]
    if missing:
        raise SourceError(
            f"{path}: wanted lines of number, figures and name with tabs between them, numbers 1 "
            f"to {NUM_CLASSES}; found none with {missing[0]}; fetch it again, or remove it to go "
            "on without names"
        )
    return tuple(names[number] for number in wanted)


LAYOUT = Layout(
    name="ade20k",
    title="ADE20K scene parsing (ADEChallengeData2016): 150 classes",
    detect=detect,
    open=open_layout,
    official_counts={"train": 20_210, "test": 2_000},
)
