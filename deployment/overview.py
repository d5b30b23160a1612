"""One picture that shows an image, what was predicted for it, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from runs.contact_sheet import label_as_rgb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deployment.predictor import Prediction
    from schemas.sample import Task

MAX_CELL_PX = 512
MIN_CELL_PX = 160
_MARGIN_PX = 8
_TEXT_PX = 14
_TITLE_PX = 22
_BACKGROUND = (250, 250, 250)
_INK = (25, 25, 25)
_UNSURE_DEG = 60.0


def draw_overview(image: NDArray[np.uint8], found: Prediction) -> Image.Image:
    """Draw the image beside its predictions, and their confidence in grey below.

    Args:
        image: uint8 RGB [H, W, 3].
        found: What was predicted for it.

    Returns:
        RGB picture; confidence is white where surest, black where least sure.
    """
    tasks = list(found)
    sure = {task: confidence_as_grey(found.confidence[task], task) for task in tasks}
    first = [("image", image), *((task, label_as_rgb(found[task], task)) for task in tasks)]
    second = [("", None), *((_confidence_title(found, task), sure[task]) for task in tasks)]
    return _grid([first, second], image.shape[:2])


def confidence_as_grey(confidence: NDArray[np.float32], task: Task) -> NDArray[np.uint8]:
    """Show a confidence map: uint8 RGB [H, W, 3], white where surest.

    Args:
        confidence: float32 [H, W]; degrees for normals (60 and more are black), else [0, 1].
        task: Which task it belongs to.
    """
    share = 1 - confidence / _UNSURE_DEG if task == "normals" else confidence
    grey = np.rint(np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)
    return grey[..., None].repeat(3, axis=2)


def _confidence_title(found: Prediction, task: Task) -> str:
    mean = float(found.confidence[task].mean())
    return f"expected error {mean:.1f}°" if task == "normals" else f"confidence {mean:.2f}"


def _grid(
    rows: Sequence[Sequence[tuple[str, NDArray[np.uint8] | None]]], size: tuple[int, ...]
) -> Image.Image:
    width, height = _cell_size(size)
    column_px = max(width, MIN_CELL_PX) + _MARGIN_PX
    row_px = height + _TITLE_PX + _MARGIN_PX
    canvas = Image.new(
        "RGB",
        (_MARGIN_PX + len(rows[0]) * column_px, _MARGIN_PX + len(rows) * row_px),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=_TEXT_PX)
    for i, row in enumerate(rows):
        for j, (title, cell) in enumerate(row):
            left, top = _MARGIN_PX + j * column_px, _MARGIN_PX + i * row_px
            draw.text((left, top), title, fill=_INK, font=font)
            if cell is not None:
                canvas.paste(_fitted(cell, (width, height)), (left, top + _TITLE_PX))
    return canvas


def _cell_size(size: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of a cell: the image's aspect, neither tiny nor huge."""
    height, width = size
    longer = max(height, width)
    scale = min(max(longer, MIN_CELL_PX), MAX_CELL_PX) / longer
    return max(1, round(width * scale)), max(1, round(height * scale))


def _fitted(cell: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    enlarges = size[0] >= cell.shape[1]
    method = Image.Resampling.NEAREST if enlarges else Image.Resampling.LANCZOS
    return Image.fromarray(cell).resize(size, method)
