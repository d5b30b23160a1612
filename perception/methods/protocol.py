"""What every method fulfils: a pyramid of frozen features becomes predictions and a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from schemas.sample import Task

if TYPE_CHECKING:
    from perception.adapter import PyramidMaps

Labels = Mapping[Task, Tensor]
"""``normals`` float32 [B, 3, H, W], unit, all-zero where invalid; ``depth`` float32 [B, 1, H, W] in
metres, 0 where invalid; ``semseg`` int64 [B, H, W], 255 ignored. All on one device."""


class Pyramid(Protocol):
    """Raw features of a batch, grouped by level, low to high resolution."""

    @property
    def maps(self) -> PyramidMaps:
        """Maps [B, C, h, w]; all maps of a level have the same side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What a method sees in a batch of images.

    Attributes:
        labels: Task to prediction, encoded like ``Labels``.
        confidence: Task to float32 [B, 1, H, W]. ``normals``: expected angular error in degrees,
            lower is surer; ``depth`` and ``semseg``: in [0, 1], higher is surer.
    """

    labels: dict[Task, Tensor]
    confidence: dict[Task, Tensor]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode without gradients, and back into the mode it had."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


class DensePredictor(nn.Module, ABC):
    """A whole predictor on top of a frozen backbone; all of its tensors are trained and published.

    Attributes:
        tasks: What it predicts.
    """

    tasks: tuple[Task, ...]

    @abstractmethod
    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Predict for training; only :meth:`loss` of the same method reads the result.

        Args:
            pyramid: Raw features of the batch.
            labels: May steer which pixels learn (never what is predicted).
            generator: Source of random draws.
        """

    @abstractmethod
    def loss(
        self, outputs: Any, labels: Labels, weights_B: Tensor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Compare what :meth:`forward_train` returned with labels.

        Args:
            outputs: Result of :meth:`forward_train` on the same batch.
            labels: Must hold every task; a task's image without labels is invalid everywhere.
            weights_B: [B], relative weight of each image; None means 1.

        Returns:
            The scalar to minimise, and the loss of each task for the record.
        """

    @abstractmethod
    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """Predict in evaluation mode without gradients, whatever mode the module is in.

        Args:
            pyramid: Raw features of the batch.
            image_size: Rows and columns of the predictions.
        """

    def forward(
        self,
        pyramid: Pyramid,
        labels: Labels,
        weights_B: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the training loss; one call, so that a distributed wrapper sees the whole step."""
        outputs = self.forward_train(pyramid, labels=labels, generator=generator)
        return self.loss(outputs, labels, weights_B)
