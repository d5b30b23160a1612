"""Depth errors, pooled over all valid pixels of the data set."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from evaluation.accumulator import Accumulator, expect_finite, ratio, zeros
from perception.shapes import expect_shape

_SMALLEST_DEPTH_M = 1e-9
_NUM_DELTAS = 3


class DepthMetrics(Accumulator):
    """RMSE, log RMSE, absolute and relative errors, and the shares below 1.25, 1.25², 1.25³.

    Args:
        min_depth_m: Targets at or below it are not counted; 0 leaves out invalid pixels only.
        max_depth_m: Targets at or above it are not counted.
    """

    def __init__(self, *, min_depth_m: float = 0.0, max_depth_m: float = math.inf) -> None:
        super().__init__(
            count=zeros(),
            squared=zeros(),
            squared_log=zeros(),
            absolute=zeros(),
            relative=zeros(),
            squared_relative=zeros(),
            below=zeros(_NUM_DELTAS),
        )
        self.min_depth_m = min_depth_m
        self.max_depth_m = max_depth_m

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: [B, 1, h, w], metres; raised to 1e-9 where not positive, and brought to the
                target's size (bilinear, corners aligned).
            target: [B, 1, H, W], metres, 0 where invalid.

        Raises:
            ShapeError: If a shape is another one.
            NotFiniteError: If a predicted value is infinite or not a number.
        """
        expect_shape(prediction, "B 1 h w", name="prediction")
        expect_finite(prediction)
        expect_shape(target, "B 1 H W", name="target")
        if prediction.shape != target.shape:
            prediction = functional.interpolate(
                prediction, size=target.shape[-2:], mode="bilinear", align_corners=True
            )
        valid = (target > max(self.min_depth_m, 0.0)) & (target < self.max_depth_m)
        found, wanted = (
            prediction[valid].double().clamp_min(_SMALLEST_DEPTH_M),
            target[valid].double(),
        )
        error = (found - wanted).abs()
        excess = torch.maximum(found / wanted, wanted / found)
        limits = excess.new_tensor([1.25**power for power in range(1, _NUM_DELTAS + 1)])
        self._add(
            count=error.new_tensor(error.numel()),
            squared=(error**2).sum(),
            squared_log=((found.log() - wanted.log()) ** 2).sum(),
            absolute=error.sum(),
            relative=(error / wanted).sum(),
            squared_relative=(error**2 / wanted).sum(),
            below=(excess.unsqueeze(1) < limits).sum(dim=0),
        )

    def compute(self) -> dict[str, float]:
        """Return the metrics.

        ``rmse_m``, ``rmse_log``, ``abs_err_m``, ``abs_rel``, ``sq_rel``, and as shares
        ``delta_1``, ``delta_2``, ``delta_3``.
        """
        count = self.sums["count"]
        scores = {
            "rmse_m": ratio(self.sums["squared"], count) ** 0.5,
            "rmse_log": ratio(self.sums["squared_log"], count) ** 0.5,
            "abs_err_m": ratio(self.sums["absolute"], count),
            "abs_rel": ratio(self.sums["relative"], count),
            "sq_rel": ratio(self.sums["squared_relative"], count),
        }
        for power, below in enumerate(self.sums["below"], start=1):
            scores[f"delta_{power}"] = ratio(below, count)
        return scores
