"""A picture of what a run made: real image, synthetic image and its labels, with the caption."""

from __future__ import annotations

import io
import textwrap
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from schemas.run_layout import CONTACT_SHEET_FILE
from schemas.sample import IGNORE_ID, TASK_KINDS, Sample, Task
from sources.live_shards import LiveShardList
from sources.open import open_source
from sources.streams import DecodedShards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from schemas.config import RunConfig
    from sources.live_shards import LiveShard
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore

CELL_PX = 192
MARGIN_PX = 8
TEXT_PX = 15
_LINE_PX = 20
_BACKGROUND = (250, 250, 250)
_INK = (25, 25, 25)
_FAINT_INK = (110, 110, 110)
_IGNORED_GREY = (110, 40, 130)
_DECODED_BYTES = 256 * 2**20

# Near is bright, far is dark; steps of about equal lightness.
_DEPTH_COLOURS = np.array(
    [(253, 231, 110), (246, 150, 60), (205, 70, 90), (125, 40, 125), (45, 20, 90), (5, 5, 25)]
)


def contact_sheet_from_run(config: RunConfig, store: RunStore, *, limit: int = 8) -> bool:
    """Write contact_sheet.png of a run: evenly chosen synthetic samples under their newest labels.

    Args:
        config: The run.
        store: Its directory.
        limit: Rows at most.

    Returns:
        Whether there was anything to show.
    """
    source = open_source(config.source, config.method.tasks)
    rows = rows_of_run(store, source, limit=limit)
    if rows:
        store.write_bytes(CONTACT_SHEET_FILE, make_contact_sheet(rows))
    return bool(rows)


def rows_of_run(store: RunStore, source: LabelledSource, *, limit: int) -> list[SheetRow]:
    """Choose good samples, evenly over the units, and read them with their real images."""
    live = LiveShardList(store)
    live.refresh(force=True)
    shards = live.shards
    ends = list(accumulate(shard.num_samples for shard in shards))
    wanted = {i * ends[-1] // limit for i in range(limit)} if ends else set()
    decoded = DecodedShards(store, _DECODED_BYTES)
    real = _RealImages(source)
    rows = []
    for position in sorted(wanted):
        place = bisect_right(ends, position)
        shard = shards[place]
        sample = decoded.get(shard)[position - ends[place]]
        rows.append(_row(sample, shard, real.find(sample)))
    return rows


def make_contact_sheet(rows: Sequence[SheetRow]) -> bytes:
    """Draw rows of ``real | synthetic | labels`` with the caption under each.

    Args:
        rows: At least one; those of the first decide which labels are shown. If none has a real
            image, there is no such column.

    Returns:
        A PNG file.
    """
    tasks = tuple(rows[0].labels)
    real = ("real",) if any(row.real is not None for row in rows) else ()
    titles = (*real, "synthetic", *tasks)
    width = MARGIN_PX + len(titles) * (CELL_PX + MARGIN_PX)
    strips = [_draw_titles(titles, width)]
    for row in rows:
        labels = [label_as_rgb(row.labels[task], task) for task in tasks]
        cells = [*([row.real] if real else []), row.synthetic, *labels]
        strips.append(_draw_row(row, cells, width))
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)), _BACKGROUND)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def label_as_rgb(label: NDArray[Any], task: Task) -> NDArray[np.uint8]:
    """Colour a label map for the eye; invalid pixels are black, in grey maps purple.

    Args:
        label: Encoded as ``schemas.sample`` says.
        task: What it is.

    Returns:
        uint8 RGB [H, W, 3]: normals as (n + 1) / 2; depth from bright (near) to dark (far),
        stretched over the image's own range; class ids in fixed, distinct colours;
        probabilities in grey, 1 white.
    """
    kind = TASK_KINDS[task]
    if kind == "direction":
        valid = np.any(label != 0, axis=-1, keepdims=True)
        return np.where(valid, np.rint((label + 1) * 127.5), 0).astype(np.uint8)
    if kind == "distance":
        return _depth_as_rgb(label)
    if kind == "probability":
        grey = np.rint(np.clip(label, 0, 1) * 255).astype(np.uint8)[..., None]
        return np.where(label[..., None] >= 0, grey, np.array(_IGNORED_GREY, np.uint8))
    return _palette()[label]


def _depth_as_rgb(depth_m: NDArray[Any]) -> NDArray[np.uint8]:
    valid = depth_m > 0
    if not valid.any():
        return np.zeros((*depth_m.shape, 3), np.uint8)
    near, far = np.percentile(depth_m[valid], (1, 99))
    place = np.clip((depth_m - near) / max(far - near, 1e-6), 0, 1)
    stops = np.linspace(0, 1, len(_DEPTH_COLOURS))
    channels = [np.interp(place, stops, _DEPTH_COLOURS[:, i]) for i in range(3)]
    return np.where(valid[..., None], np.stack(channels, axis=-1), 0).astype(np.uint8)


@cache
def _palette() -> NDArray[np.uint8]:
    """Colours of all ids: each the farthest from black and from those before it."""
    levels = np.linspace(30, 255, 8)
    choice = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    colours = np.zeros((IGNORE_ID + 1, 3))
    distance = np.linalg.norm(choice, axis=1).clip(max=120)
    for class_id in range(IGNORE_ID):
        colours[class_id] = choice[distance.argmax()]
        distance = np.minimum(distance, np.linalg.norm(choice - colours[class_id], axis=1))
    return np.rint(colours).astype(np.uint8)


def _draw_titles(titles: Sequence[str], width: int) -> Image.Image:
    strip = Image.new("RGB", (width, _LINE_PX + MARGIN_PX), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for i, title in enumerate(titles):
        left = MARGIN_PX + i * (CELL_PX + MARGIN_PX)
        draw.text((left, MARGIN_PX), title, fill=_INK, font=_font())
    return strip


def _draw_row(row: SheetRow, cells: Sequence[NDArray[np.uint8] | None], width: int) -> Image.Image:
    letters = (width - 2 * MARGIN_PX) // (TEXT_PX // 2)
    caption = textwrap.wrap(row.caption or "(no caption)", letters)
    note = textwrap.wrap(row.note, letters)
    height = CELL_PX + _LINE_PX * (len(caption) + len(note)) + 3 * MARGIN_PX
    strip = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for i, cell in enumerate(cells):
        if cell is not None:
            strip.paste(_enlarged(cell), (MARGIN_PX + i * (CELL_PX + MARGIN_PX), MARGIN_PX))
    top = CELL_PX + 2 * MARGIN_PX - 2
    for line, ink in [*((c, _INK) for c in caption), *((n, _FAINT_INK) for n in note)]:
        draw.text((MARGIN_PX, top), line, fill=ink, font=_font())
        top += _LINE_PX
    return strip


def _enlarged(image: NDArray[np.uint8]) -> Image.Image:
    height, width = image.shape[:2]
    scale = CELL_PX / max(height, width)
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(image).resize(size, method)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=TEXT_PX)


def _row(sample: Sample, shard: LiveShard, real: NDArray[np.uint8] | None) -> SheetRow:
    sure = {task: float(values.mean()) for task, values in sample.confidence.items()}
    texts = [
        f"{task}: expected error {v:.1f}°"
        if TASK_KINDS[task] == "direction"
        else f"{task}: confidence {v:.2f}"
        for task, v in sure.items()
    ]
    made_from = f"from {sample.meta.get('source_key', '?')}, T = {sample.meta.get('t_start', '?')}"
    note = "; ".join([made_from, f"labels of version {shard.version}", *texts])
    return SheetRow(
        real=real,
        synthetic=sample.image,
        labels=sample.labels,
        caption=sample.caption,
        note=note,
    )


class _RealImages:
    """Finds the real image that a synthetic one was made from."""

    def __init__(self, source: LabelledSource) -> None:
        self._source = source
        self._shards = {shard.name: shard for shard in source.shards("train")}

    def find(self, sample: Sample) -> NDArray[np.uint8] | None:
        shard = self._shards.get(sample.meta.get("source_shard", ""))
        key = sample.meta.get("source_key")
        if shard is None or key not in shard.keys:
            return None
        found = next(iter(self._source.read(shard, [key])))
        return found.image if isinstance(found, Sample) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetRow:
    """One row of a contact sheet.

    Attributes:
        real: uint8 RGB [H, W, 3], the image it was made from; None if there is none.
        synthetic: uint8 RGB [H, W, 3].
        labels: Of the synthetic image, encoded as ``schemas.sample`` says.
        caption: Text under which it was made.
        note: Where it came from, in small.
    """

    real: NDArray[np.uint8] | None
    synthetic: NDArray[np.uint8]
    labels: dict[Task, NDArray[Any]]
    caption: str
    note: str = ""
