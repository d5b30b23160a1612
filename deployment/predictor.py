"""Images of any size to predictions at that size: Φ_dis of Diff-2-in-1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployment.placement import (
    Placement,
    keep_aspect,
    label_as_array,
    reliability_as_array,
    resize_label,
    stretch,
)
from perception.predict import predict_images
from schemas.errors import ConfigError
from schemas.sample import RELIABILITY_MEASURES, ReliabilityMeasure, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor, Predictions

_MAX_CANVAS_PIXELS_PER_BATCH = 2**22


class Prediction(dict[Task, "NDArray[Any]"]):
    """Task to what was predicted for one image, at the image's size.

    Encoded as ``schemas.sample`` says: ``normals`` float32 [H, W, 3], unit; ``depth`` float32
    [H, W], metres; ``semseg`` and ``human_parts`` uint8 [H, W]; ``saliency`` and ``boundaries``
    float32 [H, W] in [0, 1].

    Attributes:
        reliability: Task to float32 [H, W], in the measure of ``RELIABILITY_MEASURES``: this is
            ``expected_error_deg`` and ``confidence`` together.
    """

    def __init__(
        self, labels: dict[Task, NDArray[Any]], reliability: dict[Task, NDArray[np.float32]]
    ) -> None:
        super().__init__(labels)
        self.reliability = reliability

    @property
    def expected_error_deg(self) -> dict[Task, NDArray[np.float32]]:
        """Expected angular error of ``normals``: float32 [H, W], degrees, lower is surer."""
        return self._measured_as("expected_error_deg")

    @property
    def confidence(self) -> dict[Task, NDArray[np.float32]]:
        """Confidence of every task but ``normals``: float32 [H, W] in [0, 1], higher is surer."""
        return self._measured_as("confidence")

    def _measured_as(self, measure: ReliabilityMeasure) -> dict[Task, NDArray[np.float32]]:
        known = self.reliability.items()
        return {task: each for task, each in known if RELIABILITY_MEASURES[task] == measure}


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A backbone and a trained method, for images of any size.

    Attributes:
        backbone: The frozen model.
        method: Holds the creation weights.
        image_size: Height and width of the images it was trained on.
        batch_size: Most images that go through the backbone together.
    """

    backbone: DiffusionBackbone
    method: DensePredictor
    image_size: tuple[int, int]
    batch_size: int = 16

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        seeds: Sequence[int],
        tasks: Sequence[Task] = (),
        keeps_aspect: bool = False,
        averages_mirrored: bool = False,
    ) -> list[Prediction]:
        """Predict in evaluation mode.

        An image's prediction depends on the image and its seed, not on its batch (up to rounding).

        Args:
            images: uint8 RGB [H, W, 3] arrays of any sizes; those of equal size share batches.
            seeds: One per image, for the noise that its features are taken with.
            tasks: What to return; all of the method's tasks if empty.
            keeps_aspect: Resize the shorter side to the training size and pad, instead of
                stretching the image to the training size as the papers do.
            averages_mirrored: Predict the mirror images too and average.

        Returns:
            A prediction for each image, at its size.

        Raises:
            ConfigError: If the method has no such task.
        """
        wanted = self._expect_tasks(tasks)
        placements = [self.place(image.shape[:2], keeps_aspect=keeps_aspect) for image in images]
        found: list[Prediction | None] = [None] * len(images)
        for rows in _equal_batches(placements, self.batch_size):
            placement = placements[rows[0]]
            predicted = predict_images(
                self.backbone,
                self.method,
                [images[row] for row in rows],
                seeds=[seeds[row] for row in rows],
                average_mirrored=averages_mirrored,
                frame=placement,
            )
            for index, row in enumerate(rows):
                found[row] = _one(predicted, index, wanted, placement.image_size)
        return [each for each in found if each is not None]

    def place(self, image_size: tuple[int, ...], *, keeps_aspect: bool) -> Placement:
        """Where an image of a size is laid; the network's sides fit all levels of the U-Net."""
        height, width = image_size
        if not keeps_aspect:
            return stretch((height, width), self.image_size)
        levels = len(self.backbone.block_out_channels)
        multiple = self.backbone.downsample_factor << (levels - 1)
        return keep_aspect((height, width), self.image_size, multiple=multiple)

    def _expect_tasks(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        unknown = [task for task in tasks if task not in self.method.tasks]
        if unknown:
            raise ConfigError(
                f"tasks = {', '.join(unknown)}: the run predicts {', '.join(self.method.tasks)}; "
                "choose among these, or train a run with method.tasks that has the others"
            )
        return tuple(tasks) or self.method.tasks


def _equal_batches(placements: Sequence[Placement], batch_size: int) -> Iterator[list[int]]:
    """Yield indices of images that are laid alike, few enough for their predictions to fit."""
    alike: dict[Placement, list[int]] = {}
    for index, placement in enumerate(placements):
        alike.setdefault(placement, []).append(index)
    for placement, rows in alike.items():
        height, width = placement.canvas_size
        most = max(1, min(batch_size, _MAX_CANVAS_PIXELS_PER_BATCH // (height * width)))
        for first in range(0, len(rows), most):
            yield rows[first : first + most]


def _one(
    found: Predictions, index: int, tasks: Sequence[Task], image_size: tuple[int, int]
) -> Prediction:
    def at_size(values: Tensor, task: Task) -> Tensor:
        return resize_label(values[index : index + 1].float(), task, image_size)[0]

    return Prediction(
        {task: label_as_array(at_size(found.labels[task], task), task) for task in tasks},
        # Reliability is a number a pixel, like a depth.
        {task: reliability_as_array(at_size(found.reliability[task], "depth")) for task in tasks},
    )
