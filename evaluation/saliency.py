"""Saliency scores: the maximal F over thresholds, and the mean absolute error."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch

from evaluation.accumulator import Accumulator, probabilities_at_target_size, ratio, zeros

if TYPE_CHECKING:
    from torch import Tensor

    from schemas.config_metrics import SaliencyProtocol

BETA_SQUARED = 0.3
POOLED_THRESHOLDS = tuple(step / 20 for step in range(1, 20))
PER_IMAGE_THRESHOLDS = tuple(0.2 + 0.05 * step for step in range(15))


class SaliencyMetrics(Accumulator):
    """What both protocols share: reading a batch, and the mean absolute error over all pixels.

    A pixel is predicted salient at a threshold if its probability is at least that; it is salient
    if its label is above 0.5.

    Args:
        thresholds: Ascending.
        double_sigmoid: Send probabilities through one more sigmoid before they are thresholded:
            0 to 1 becomes 0.5 to 0.731, so that thresholds up to 0.5 take everything and 0.55,
            0.60, 0.65 and 0.70 mean 0.20, 0.41, 0.62 and 0.85. What InvPT's family publishes.
    """

    def __init__(
        self, thresholds: tuple[float, ...], *, double_sigmoid: bool, **sums: Tensor
    ) -> None:
        super().__init__(
            {"double_sigmoid": double_sigmoid}, count=zeros(), absolute=zeros(), **sums
        )
        self.thresholds = torch.tensor(thresholds)
        self.double_sigmoid = double_sigmoid

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: [B, 1, h, w], probability in [0, 1]; brought to the target's size (bilinear,
                corners aligned).
            target: [B, 1, H, W], probability in [0, 1], -1 where not counted.

        Raises:
            ShapeError: If a shape is another one.
            NotFiniteError: If a predicted value is infinite or not a number.
            ValueError: If a predicted value is no probability.
        """
        prediction = probabilities_at_target_size(prediction, target)
        for found, wanted in zip(prediction.float(), target, strict=True):
            self._count(found[wanted >= 0], wanted[wanted >= 0])

    def _count(self, found: Tensor, wanted: Tensor) -> None:
        if not len(found):
            return
        error = (found.double() - wanted.double()).abs()
        self._add(count=error.new_tensor(len(error)), absolute=error.sum())
        scores = found.sigmoid() if self.double_sigmoid else found
        self._add_counts(*self._counts(scores, wanted > 0.5))

    def _counts(self, scores: Tensor, is_salient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """True positives [T], predicted positives [T] and positives of an image, float64."""
        num_passed = torch.bucketize(scores, self.thresholds.to(scores.device), right=True)
        size = len(self.thresholds) + 1
        passed = [
            torch.bincount(each, minlength=size).double().flip(0).cumsum(0).flip(0)[1:]
            for each in (num_passed[is_salient], num_passed)
        ]
        return passed[0], passed[1], is_salient.sum().double()

    @abstractmethod
    def _add_counts(self, hits: Tensor, predicted: Tensor, salient: Tensor) -> None:
        """Count an image by its true positives, predicted positives and positives."""

    @abstractmethod
    def _f(self) -> Tensor:
        """Return F at each threshold, [T]."""

    def compute(self) -> dict[str, float]:
        """Return ``max_f`` and ``mae``."""
        mae = ratio(self.sums["absolute"], self.sums["count"])
        return {"max_f": float(self._f().max()) if self.sums["count"] > 0 else mae, "mae": mae}


class PooledSaliency(SaliencyMetrics):
    """F, β² = 0.3, of precision and recall over all pixels of the data set; see the base class."""

    def __init__(self, *, double_sigmoid: bool = False) -> None:
        size = len(POOLED_THRESHOLDS)
        super().__init__(
            POOLED_THRESHOLDS,
            double_sigmoid=double_sigmoid,
            hits=zeros(size),
            predicted=zeros(size),
            salient=zeros(),
        )

    def _add_counts(self, hits: Tensor, predicted: Tensor, salient: Tensor) -> None:
        self._add(hits=hits, predicted=predicted, salient=salient)

    def _f(self) -> Tensor:
        hits = self.sums["hits"]
        return f_measure(
            hits / self.sums["predicted"], hits / self.sums["salient"], beta_squared=BETA_SQUARED
        )


class PerImageSaliency(SaliencyMetrics):
    """F1 of the means over images of precision and recall (ASTMT, MTI-Net); see the base class.

    Precision is 0 where nothing is predicted, recall 0 where nothing is salient; images without a
    counted pixel are left out.
    """

    def __init__(self, *, double_sigmoid: bool = False) -> None:
        size = len(PER_IMAGE_THRESHOLDS)
        super().__init__(
            PER_IMAGE_THRESHOLDS,
            double_sigmoid=double_sigmoid,
            images=zeros(),
            precision=zeros(size),
            recall=zeros(size),
        )

    def _add_counts(self, hits: Tensor, predicted: Tensor, salient: Tensor) -> None:
        self._add(
            images=torch.ones(()),
            precision=hits / predicted.clamp_min(1),
            recall=hits / salient.clamp_min(1),
        )

    def _f(self) -> Tensor:
        images = self.sums["images"]
        return f_measure(
            self.sums["precision"] / images, self.sums["recall"] / images, beta_squared=1.0
        )


def make_saliency_metrics(
    *, protocol: SaliencyProtocol = "pooled", double_sigmoid: bool = False
) -> SaliencyMetrics:
    """Make the empty metrics of a protocol of :class:`schemas.config_metrics.MetricsSection`."""
    if protocol == "pooled":
        return PooledSaliency(double_sigmoid=double_sigmoid)
    return PerImageSaliency(double_sigmoid=double_sigmoid)


def f_measure(precision: Tensor, recall: Tensor, *, beta_squared: float) -> Tensor:
    """F = (1 + β²) P R / (β² P + R), 0 where that is not defined."""
    f = (1 + beta_squared) * precision * recall / (beta_squared * precision + recall)
    return f.nan_to_num(0.0)
