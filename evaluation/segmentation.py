"""Scores of classes (semseg, human parts) from one confusion matrix over the whole data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from evaluation.accumulator import Accumulator, expect_finite, ratio, zeros
from perception.shapes import expect_shape
from schemas.sample import IGNORE_ID

if TYPE_CHECKING:
    from torch import Tensor

    from schemas.config_metrics import AbsentClasses

_SMALLEST_UNION = 1e-8


class SegmentationMetrics(Accumulator):
    """Mean intersection over union, mean class accuracy and pixel accuracy, in [0, 1].

    Args:
        num_classes: Class ids are 0 to num_classes - 1; 255 is not counted.
        absent_classes: What a class that neither occurs in the labels nor is predicted adds to the
            mean intersection over union: left_out: nothing; zero: 0, as InvPT and TaskPrompter
            publish, TP / max(TP + FP + FN, 1e-8). It is always left out of the mean accuracy.
    """

    def __init__(self, num_classes: int, *, absent_classes: AbsentClasses = "left_out") -> None:
        super().__init__(
            {"absent_classes": absent_classes},
            confusion=zeros(num_classes, num_classes, dtype=torch.int64),
        )
        self.num_classes = num_classes
        self.absent_classes = absent_classes

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: Class ids, integer [B, h, w]; brought to the target's size (nearest).
            target: Class ids, integer [B, H, W]; 255 is not counted.

        Raises:
            ValueError: If an id is not a class.
            NotFiniteError: If a prediction is not a number.
        """
        expect_shape(prediction, "B h w", name="prediction")
        expect_finite(prediction)
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
        """Return float64 [num_classes]; for a class that never occurs 0 or not a number."""
        confusion = self.sums["confusion"].double()
        hits = confusion.diagonal()
        union = confusion.sum(dim=0) + confusion.sum(dim=1) - hits
        if self.absent_classes == "zero" and confusion.any():
            union = union.clamp_min(_SMALLEST_UNION)
        return hits / union

    def compute(self) -> dict[str, float]:
        """Return ``miou``, ``mean_accuracy`` and ``pixel_accuracy``."""
        confusion = self.sums["confusion"].double()
        hits = confusion.diagonal()
        return {
            "miou": float(self.iou_per_class().nanmean()),
            "mean_accuracy": float((hits / confusion.sum(dim=1)).nanmean()),
            "pixel_accuracy": ratio(hits.sum(), confusion.sum()),
        }
