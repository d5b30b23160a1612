"""Rendered rooms in memory: images, captions and, where a shard has them, class maps."""

from __future__ import annotations

import copy
import glob
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kit.renderer.caption import CaptionSlots, format_caption, parse_caption
from schemas.errors import SourceError
from storage.samples.codecs import decode_class_ids, decode_image
from storage.samples.shards import read_tar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

IGNORE = 255
MIRRORED = {"left": "right", "middle": "middle", "right": "left"}


@dataclass(frozen=True)
class Room:
    """One room: uint8 RGB image [H, W, 3], its caption, and uint8 class ids [H, W] if known."""

    image: NDArray[np.uint8]
    caption: str
    semseg: NDArray[np.uint8] | None


def find_tars(patterns: Iterable[str]) -> list[Path]:
    """Return the tars that folders, files or glob patterns name, sorted.

    Args:
        patterns: Folders (searched for `*.tar`, not below), tar files, or globs.
    """
    found: set[Path] = set()
    for pattern in patterns:
        if Path(pattern).is_dir():
            found.update(Path(pattern).glob("*.tar"))
        else:
            found.update(Path(match) for match in glob.glob(pattern))  # noqa: PTH207 absolute globs
    return sorted(found)


def read_tar_rooms(path: Path) -> Iterator[Room]:
    """Yield the rooms of one tar, in its order.

    Args:
        path: A tar of `<key>.image.png`, `<key>.json` with "caption", maybe `<key>.semseg.png`.
    """
    for _, members in read_tar(path.read_bytes()):
        semseg = members.get("semseg.png")
        yield Room(
            decode_image(members["image.png"]),
            str(json.loads(members["json"])["caption"]),
            None if semseg is None else decode_class_ids(semseg),
        )


def mirror_caption(caption: str) -> str:
    """Return the caption of the left-right mirrored view: places swap, and so does their order."""
    slots = parse_caption(caption)
    things = tuple(replace(thing, place=MIRRORED[thing.place]) for thing in reversed(slots.things))
    return format_caption(CaptionSlots(things, slots.wall, slots.floor))


def to_model_range(images: Tensor) -> Tensor:
    """Turn uint8 images into float32 in [-1, 1], the range of autoencoder and captioner."""
    return images.float() / 127.5 - 1.0


class Rooms:
    """Rooms of a set of tars that may still be growing.

    Attributes:
        images: uint8 [N, 3, H, W].
        captions: The N captions.
        semseg: uint8 class ids [N, H, W], all 255 where a room has no class map.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Read what is there now.

        Args:
            patterns: Folders, tar files or globs, see `find_tars`.

        Raises:
            SourceError: If no room was found.
        """
        self._patterns = tuple(patterns)
        self._read: set[Path] = set()
        self.images = torch.empty(0, dtype=torch.uint8)
        self.semseg = torch.empty(0, dtype=torch.uint8)
        self.captions: list[str] = []
        self.refresh()
        if not self.captions:
            raise SourceError(
                f"rooms: wanted tars of rendered rooms in {', '.join(self._patterns)}, found none; "
                "render them first with jobs/render_rooms.py"
            )

    def __len__(self) -> int:
        return len(self.captions)

    def first(self, count: int) -> Rooms:
        """Return the first `count` rooms; the result takes up no new tars."""
        part = copy.copy(self)
        part._patterns = ()
        part.images, part.semseg = self.images[:count], self.semseg[:count]
        part.captions = self.captions[:count]
        return part

    def refresh(self) -> bool:
        """Read tars that appeared since the last call; say whether there were any."""
        new = [path for path in find_tars(self._patterns) if path not in self._read]
        for path in new:
            self._append(list(read_tar_rooms(path)))
            self._read.add(path)
        if new:
            logger.info("read %d tars, %d rooms in all", len(new), len(self))
        return bool(new)

    def _append(self, rooms: list[Room]) -> None:
        if not rooms:
            return
        blank = np.full(rooms[0].image.shape[:2], IGNORE, np.uint8)
        images = torch.from_numpy(np.stack([room.image for room in rooms])).permute(0, 3, 1, 2)
        maps = [blank if room.semseg is None else room.semseg for room in rooms]
        semseg = torch.from_numpy(np.stack(maps))
        first = not self.captions
        self.images = images.contiguous() if first else torch.cat([self.images, images])
        self.semseg = semseg if first else torch.cat([self.semseg, semseg])
        self.captions += [room.caption for room in rooms]
