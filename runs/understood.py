"""One picture of what was understood of a folder: some samples with their labels, and a legend."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from runs.pictures import PictureRow, class_legend, draw_rows, overlaid
from schemas.sample import IGNORE_ID, TASK_KINDS, Sample, Task
from sources.class_names import class_names_of
from sources.open import open_source
from sources.spread import spread_samples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from schemas.config import RunConfig

_CELL_PX = (192, 192)
_ROWS = 5


def draw_understood(config: RunConfig) -> bytes:
    """Draw evenly spread training samples as a run reads them.

    Returns:
        A PNG file; empty if no sample can be read.
    """
    tasks = config.method.tasks
    samples = spread_samples(open_source(config.source, tasks), "train", _ROWS)
    if not samples:
        return b""
    rows = [
        PictureRow(
            titles=("image", *tasks) if number == 0 else (),
            images=[
                sample.image,
                *(_cell(sample, task) for task in tasks),
            ],
            text="; ".join([sample.key, *_ranges(sample)]),
        )
        for number, sample in enumerate(samples)
    ]
    labels = {
        task: [sample.labels[task] for sample in samples if task in sample.labels] for task in tasks
    }
    legend = class_legend(labels, class_names_of(config))
    buffer = io.BytesIO()
    draw_rows(rows, cell_px=_CELL_PX, legend=legend).save(buffer, format="PNG")
    return buffer.getvalue()


def _cell(sample: Sample, task: Task) -> NDArray[np.uint8] | None:
    label = sample.labels.get(task)
    return None if label is None else overlaid(sample.image, label, task)


def _ranges(sample: Sample) -> list[str]:
    texts = (_range(task, label) for task, label in sample.labels.items())
    return [text for text in texts if text]


def _range(task: Task, label: NDArray[Any]) -> str:
    kind = TASK_KINDS[task]
    if kind == "distance":
        valid = label[label > 0]
        return f"depth {valid.min():.1f} to {valid.max():.1f} m" if valid.size else "depth: none"
    if kind == "classes" and not (label != IGNORE_ID).any():
        return f"{task}: none"
    return ""
