"""Pictures for people: label maps and reliability in colours, cells in a grid with text."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from schemas.sample import IGNORE_ID, RELIABILITY_MEASURES, TASK_KINDS, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

MIN_CELL_PX = 160
_MARGIN_PX = 8
_TEXT_PX = 14
_LINE_PX = 22
_SWATCH_PX = 14
_MOST_IN_LEGEND = 60
_BACKGROUND = (250, 250, 250)
_INK = (25, 25, 25)
_FAINT_INK = (110, 110, 110)
_IGNORED_GREY = (110, 40, 130)
_UNSURE_DEG = 60.0
_FIRST_COLOURS = ((150, 150, 150), (255, 140, 0))

# Near is bright, far is dark; steps of about equal lightness.
_DEPTH_COLOURS = np.array(
    [(253, 231, 110), (246, 150, 60), (205, 70, 90), (125, 40, 125), (45, 20, 90), (5, 5, 25)]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureRow:
    """One row of a picture.

    Attributes:
        images: uint8 RGB [H, W, 3], from left to right; None leaves the cell empty.
        titles: Above the images; none if empty.
        text: Below the images.
        note: Below that, fainter.
    """

    images: Sequence[NDArray[np.uint8] | None]
    titles: Sequence[str] = ()
    text: str = ""
    note: str = ""


Colour = tuple[int, int, int]


def draw_rows(
    rows: Sequence[PictureRow],
    *,
    cell_px: tuple[int, int],
    legend: Sequence[tuple[Colour, str]] = (),
) -> Image.Image:
    """Draw rows of images below each other, and below them what colours mean.

    Args:
        rows: At least one.
        cell_px: Width and height that every image is fitted into; its aspect is kept.
        legend: Colours and what they stand for.

    Returns:
        RGB picture.
    """
    column_px = max(cell_px[0], MIN_CELL_PX) + _MARGIN_PX
    width = _MARGIN_PX + max(len(row.images) for row in rows) * column_px
    strips = [_draw_row(row, cell_px, column_px, width) for row in rows]
    if legend:
        strips.append(_draw_legend(legend, width))
    height = _MARGIN_PX + sum(strip.height for strip in strips)
    picture = Image.new("RGB", (width, height), _BACKGROUND)
    top = _MARGIN_PX
    for strip in strips:
        picture.paste(strip, (0, top))
        top += strip.height
    return picture


def label_as_rgb(
    label: NDArray[Any], task: Task, *, like: NDArray[Any] | None = None
) -> NDArray[np.uint8]:
    """Colour a label map for the eye; invalid pixels are black, in grey maps purple.

    Args:
        label: Encoded as ``schemas.sample`` says.
        like: A label to compare it with: depth is stretched over the range of that one.

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
        return _depth_as_rgb(label, label if like is None or not (like > 0).any() else like)
    if kind == "probability":
        grey = np.rint(np.clip(label, 0, 1) * 255).astype(np.uint8)[..., None]
        return np.where(label[..., None] >= 0, grey, np.array(_IGNORED_GREY, np.uint8))
    return _palette()[label]


def overlaid(image: NDArray[np.uint8], label: NDArray[Any], task: Task) -> NDArray[np.uint8]:
    """Class ids in colours over their image; other labels as :func:`label_as_rgb` shows them."""
    colours = label_as_rgb(label, task)
    if TASK_KINDS[task] != "classes":
        return colours
    # Grey, so that colours stay those of the legend.
    grey = image.mean(axis=-1, keepdims=True)
    strength = np.where(label == 0, 0.3, 0.7)[..., None]
    return np.rint((1 - strength) * grey + strength * colours).astype(np.uint8)


def class_legend(
    labels: Mapping[Task, Iterable[NDArray[Any]]], names: Mapping[Task, Sequence[str]]
) -> list[tuple[Colour, str]]:
    """What the colours of class maps mean: the ids that occur in them, with their names.

    Args:
        labels: Task to uint8 maps; tasks without classes are passed over.
        names: Task to the names of its ids, as far as they are known.
    """
    entries: list[tuple[Colour, str]] = []
    with_classes = [task for task in labels if TASK_KINDS[task] == "classes"]
    for task in with_classes:
        prefix = f"{task} " if len(with_classes) > 1 else ""
        known = names.get(task, ())
        for class_id in sorted({int(each) for one in labels[task] for each in np.unique(one)}):
            name = "not labelled" if class_id == IGNORE_ID else f"{class_id}"
            if class_id < len(known):
                name = f"{class_id} {known[class_id]}"
            red, green, blue = (int(part) for part in _palette()[class_id])
            entries.append(((red, green, blue), prefix + name))
    if len(entries) > _MOST_IN_LEGEND:
        more = len(entries) - _MOST_IN_LEGEND
        entries = [*entries[:_MOST_IN_LEGEND], (_BACKGROUND, f"and {more} more")]
    return entries


def _depth_as_rgb(depth_m: NDArray[Any], like_m: NDArray[Any]) -> NDArray[np.uint8]:
    valid = depth_m > 0
    if not valid.any():
        return np.zeros((*depth_m.shape, 3), np.uint8)
    near, far = np.percentile(like_m[like_m > 0], (1, 99))
    place = np.clip((depth_m - near) / max(far - near, 1e-6), 0, 1)
    stops = np.linspace(0, 1, len(_DEPTH_COLOURS))
    channels = [np.interp(place, stops, _DEPTH_COLOURS[:, i]) for i in range(3)]
    return np.where(valid[..., None], np.stack(channels, axis=-1), 0).astype(np.uint8)


@cache
def _palette() -> NDArray[np.uint8]:
    """Colours of all ids: grey, orange, then each the farthest from black, white and the others.

    Class 0 is often the background: grey leaves it in the back.
    """
    levels = np.linspace(30, 255, 8)
    choice = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    colours = np.zeros((IGNORE_ID + 1, 3))
    # White may be nearer than black: it is not the colour of any other pixel, but of the paper.
    from_white = np.linalg.norm(choice - 255, axis=1) + 60
    distance = np.minimum(np.linalg.norm(choice, axis=1), from_white)
    for class_id in range(IGNORE_ID):
        is_first = class_id < len(_FIRST_COLOURS)
        colours[class_id] = _FIRST_COLOURS[class_id] if is_first else choice[distance.argmax()]
        distance = np.minimum(distance, np.linalg.norm(choice - colours[class_id], axis=1))
    return np.rint(colours).astype(np.uint8)


def reliability_as_grey(reliability: NDArray[np.float32], task: Task) -> NDArray[np.uint8]:
    """Show a reliability map: uint8 RGB [H, W, 3], white where surest.

    Args:
        reliability: float32 [H, W]; degrees for normals (60 and more are black), else [0, 1].
    """
    is_error = RELIABILITY_MEASURES[task] == "expected_error_deg"
    share = 1 - reliability / _UNSURE_DEG if is_error else reliability
    grey = np.rint(np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)
    return grey[..., None].repeat(3, axis=2)


def describe_reliability(reliability: NDArray[np.float32], task: Task) -> str:
    """Say in words how sure a label is on average.

    A label that is surest everywhere is one whose method does not estimate its error.
    """
    mean = float(reliability.mean())
    is_error = RELIABILITY_MEASURES[task] == "expected_error_deg"
    if (reliability == (0 if is_error else 1)).all():
        return "error not estimated"
    return f"expected error {mean:.1f}°" if is_error else f"confidence {mean:.2f}"


def _draw_row(row: PictureRow, cell_px: tuple[int, int], column_px: int, width: int) -> Image.Image:
    letters = (width - 2 * _MARGIN_PX) // (_TEXT_PX // 2)
    lines = [(line, _INK) for line in textwrap.wrap(row.text, letters)]
    lines += [(line, _FAINT_INK) for line in textwrap.wrap(row.note, letters)]
    images_top = _LINE_PX if row.titles else 0
    lines_top = images_top + cell_px[1] + _MARGIN_PX
    height = lines_top + len(lines) * _LINE_PX + (_MARGIN_PX if lines else 0)
    strip = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(size=_TEXT_PX)
    for place, title in enumerate(row.titles):
        draw.text((_MARGIN_PX + place * column_px, 0), title, fill=_INK, font=font)
    for place, image in enumerate(row.images):
        if image is not None:
            strip.paste(_fitted(image, cell_px), (_MARGIN_PX + place * column_px, images_top))
    for number, (line, ink) in enumerate(lines):
        top = lines_top + number * _LINE_PX
        draw.text((_MARGIN_PX, top), line, fill=ink, font=font)
    return strip


def _draw_legend(legend: Sequence[tuple[Colour, str]], width: int) -> Image.Image:
    """Swatches with their text, in lines as wide as the picture."""
    font = ImageFont.load_default(size=_TEXT_PX)
    widths = [_SWATCH_PX + 3 * _MARGIN_PX + math.ceil(font.getlength(text)) for _, text in legend]
    places: list[tuple[int, int]] = []
    left, line = _MARGIN_PX, 0
    for each in widths:
        if left > _MARGIN_PX and left + each > width:
            left, line = _MARGIN_PX, line + 1
        places.append((left, line * _LINE_PX))
        left += each
    strip = Image.new("RGB", (width, (line + 1) * _LINE_PX + _MARGIN_PX), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for (colour, text), (left, top) in zip(legend, places, strict=True):
        box = (left, top + 2, left + _SWATCH_PX, top + 2 + _SWATCH_PX)
        outline = None if colour == _BACKGROUND else _FAINT_INK
        draw.rectangle(box, fill=colour, outline=outline)
        draw.text((left + _SWATCH_PX + _MARGIN_PX, top), text, fill=_INK, font=font)
    return strip


def _fitted(image: NDArray[np.uint8], cell_px: tuple[int, int]) -> Image.Image:
    height, width = image.shape[:2]
    scale = min(cell_px[0] / width, cell_px[1] / height)
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(image).resize(size, method)
