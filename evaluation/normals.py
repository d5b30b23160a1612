"""Angular errors of surface normals, pooled over all valid pixels of the data set."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from evaluation.accumulator import Accumulator, at_target_size, ratio, zeros

THRESHOLDS_DEG = (5.0, 7.5, 11.25, 22.5, 30.0)
MEDIAN_STEP_DEG = 0.005


def angular_error_deg(prediction_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
    """Angle between two fields of normals, 2 · atan2(‖p - g‖, ‖p + g‖).

    Equal to acos of the dot product, but exact near 0 and 180 degrees.

    Args:
        prediction_B3HW: Normals of any length above 0.
        target_B3HW: The same.

    Returns:
        float64 [B, H, W], degrees in [0, 180].
    """
    found = functional.normalize(prediction_B3HW.double(), dim=1)
    wanted = functional.normalize(target_B3HW.double(), dim=1)
    difference = torch.linalg.vector_norm(found - wanted, dim=1)
    return torch.rad2deg(
        2 * torch.atan2(difference, torch.linalg.vector_norm(found + wanted, dim=1))
    )


class NormalsMetrics(Accumulator):
    """Mean, median, RMSE in degrees, and percentages of pixels below the thresholds.

    The median comes from a histogram of 0.005° steps: it is exact to one step downwards.
    """

    def __init__(self) -> None:
        super().__init__(
            {},
            count=zeros(),
            error=zeros(),
            squared_error=zeros(),
            below=zeros(len(THRESHOLDS_DEG)),
            histogram=zeros(round(180 / MEDIAN_STEP_DEG) + 1, dtype=torch.int64),
        )

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: [B, 3, h, w], any length; brought to the target's size (bilinear, corners
                aligned).
            target: [B, 3, H, W], unit, all-zero where invalid.

        Raises:
            ShapeError: If a shape is another one.
            NotFiniteError: If a predicted value is infinite or not a number.
        """
        prediction = at_target_size(prediction, target, num_channels=3)
        error = angular_error_deg(prediction, target)[target.abs().sum(dim=1) > 0]
        below = error.unsqueeze(1) < error.new_tensor(THRESHOLDS_DEG)
        bins = (error / MEDIAN_STEP_DEG).long()
        self._add(
            count=error.new_tensor(error.numel()),
            error=error.sum(),
            squared_error=(error**2).sum(),
            below=below.sum(dim=0),
            histogram=torch.bincount(bins, minlength=len(self.sums["histogram"])),
        )

    def compute(self) -> dict[str, float]:
        """Return ``mean_deg``, ``median_deg``, ``rmse_deg``, and ``pct_5`` to ``pct_30``."""
        count = self.sums["count"]
        scores = {
            "mean_deg": ratio(self.sums["error"], count),
            "median_deg": self._median_deg(),
            "rmse_deg": ratio(self.sums["squared_error"], count) ** 0.5,
        }
        for threshold, below in zip(THRESHOLDS_DEG, self.sums["below"], strict=True):
            scores[f"pct_{threshold:g}".replace(".", "_")] = 100 * ratio(below, count)
        return scores

    def _median_deg(self) -> float:
        total = self.sums["histogram"].cumsum(dim=0)
        if total[-1] == 0:
            return float("nan")
        return float(torch.searchsorted(total, (total[-1] + 1) // 2)) * MEDIAN_STEP_DEG
