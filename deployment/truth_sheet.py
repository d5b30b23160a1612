"""A picture of a scored split: images, their labels and what was predicted, beside each other."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from deployment.placement import label_as_array
from perception.diffusion.latents import tensor_to_images
from runs.pictures import PictureRow, class_legend, draw_rows, label_as_rgb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    from schemas.sample import Task
    from sources.batches import Batch
    from sources.class_names import ClassNames

CELL_PX = 192


class TruthSheet:
    """Keeps the first images of a split with what one set of weights predicts for them.

    Args:
        weights: Name of the set of weights.
        names: Task to the names of its class ids, as far as they are known.
        limit: Rows at most.
    """

    def __init__(self, weights: str, names: ClassNames, *, limit: int = 8) -> None:
        self._weights = weights
        self._names = names
        self._limit = limit
        self._rows: list[PictureRow] = []
        self._shown: dict[Task, list[NDArray[Any]]] = {}

    def add(self, batch: Batch, found: Mapping[str, Mapping[Task, Tensor]]) -> None:
        """Take images of a batch, as long as there is room.

        Args:
            found: Name of weights to task to what they predict for the batch.
        """
        predicted = found[self._weights]
        images = tensor_to_images(batch.images)
        for index in range(min(len(images), self._limit - len(self._rows))):
            cells, titles = [images[index]], ["image"]
            for task, labels in predicted.items():
                both = [label_as_array(each[index], task) for each in (batch.labels[task], labels)]
                self._shown.setdefault(task, []).extend(both)
                cells += [label_as_rgb(each, task, like=both[0]) for each in both]
                titles += [f"{task}, truth", f"{task}, predicted"]
            self._rows.append(
                PictureRow(
                    images=cells, titles=() if self._rows else titles, note=batch.keys[index]
                )
            )

    def to_png(self) -> bytes:
        """The picture, with what colours of classes mean."""
        legend = class_legend(self._shown, self._names)
        picture = draw_rows(self._rows, cell_px=(CELL_PX, CELL_PX), legend=legend)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        return buffer.getvalue()
