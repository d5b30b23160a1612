"""Semantic segmentation scores from one confusion matrix over the whole data set."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from evaluation.accumulator import Accumulator, ratio, zeros
from perception.shapes import expect_shape
from schemas.sample import IGNORE_ID


class SegmentationMetrics(Accumulator):
    """Mean intersection over union, mean class accuracy and pixel accuracy, in [0, 1].

    A class that neither occurs in the labels nor is predicted is left out of the means.

    Args:
        num_classes: Class ids are 0 to num_classes - 1; 255 is not counted.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(confusion=zeros(num_classes, num_classes, dtype=torch.int64))
        self.num_classes = num_classes

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: Class ids, integer [B, h, w]; brought to the target's size (nearest).
            target: Class ids, integer [B, H, W]; 255 is not counted.

        Raises:
            ValueError: If an id is not a class.
        """
        expect_shape(prediction, "B h w", name="prediction")
        expect_shape(target, "B H W", name="target")
        if prediction.shape != target.shape:
            resized = functional.interpolate(
                prediction.unsqueeze(1).float(), size=target.shape[-2:], mode="nearest"
            )
            prediction = resized.squeeze(1)
        counted = target != IGNORE_ID
        found, wanted = prediction[counted].long(), target[counted].long()
        for name, ids in (("prediction", found), ("target", wanted)):
            if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < self.num_classes):
                raise ValueError(
                    f"{name}: wanted class ids 0 to {self.num_classes - 1} (or {IGNORE_ID}), found "
                    f"{int(ids.min())} to {int(ids.max())}; check num_classes of the source"
                )
        pairs = torch.bincount(wanted * self.num_classes + found, minlength=self.num_classes**2)
        self._add(confusion=pairs.view(self.num_classes, self.num_classes))

    def iou_per_class(self) -> Tensor:
        """Return float64 [num_classes], not a number for a class that never occurs."""
        confusion = self.sums["confusion"].double()
        hits = confusion.diagonal()
        return hits / (confusion.sum(dim=0) + confusion.sum(dim=1) - hits)

    def compute(self) -> dict[str, float]:
        """Return ``miou``, ``mean_accuracy`` and ``pixel_accuracy``."""
        confusion = self.sums["confusion"].double()
        hits = confusion.diagonal()
        return {
            "miou": float(self.iou_per_class().nanmean()),
            "mean_accuracy": float((hits / confusion.sum(dim=1)).nanmean()),
            "pixel_accuracy": ratio(hits.sum(), confusion.sum()),
        }
