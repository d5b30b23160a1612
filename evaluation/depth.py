"""Depth errors, over all valid pixels of the data set or as means over images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evaluation.accumulator import Accumulator, at_target_size, ratio, zeros

if TYPE_CHECKING:
    from torch import Tensor

    from schemas.config_metrics import DepthProtocol

_SMALLEST_DEPTH_M = 1e-9
_NUM_DELTAS = 3
EIGEN_ROWS, EIGEN_COLUMNS = (45, 471), (41, 601)
EIGEN_SIZE = (480, 640)
PER_IMAGE_MIN_M, PER_IMAGE_MAX_M = 1e-3, 10.0


class DepthMetrics(Accumulator):
    """RMSE, log RMSE, absolute and relative errors, and the shares below 1.25, 1.25², 1.25³.

    All are taken over the valid pixels of the whole data set together.

    Args:
        min_depth_m: Targets at or below it are not counted; 0 leaves out invalid pixels only.
        max_depth_m: Targets at or above it are not counted.
    """

    def __init__(self, *, min_depth_m: float = 0.0, max_depth_m: float = math.inf) -> None:
        super().__init__({"min_depth_m": min_depth_m, "max_depth_m": max_depth_m}, **_no_errors())
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
        prediction = at_target_size(prediction, target)
        valid = _in_range(target, self.min_depth_m, self.max_depth_m)
        self._add(**_error_sums(prediction[valid], target[valid]))

    def compute(self) -> dict[str, float]:
        """Return the metrics.

        ``rmse_m``, ``rmse_log``, ``abs_err_m``, ``abs_rel``, ``sq_rel``, ``log10``, and as shares
        ``delta_1``, ``delta_2``, ``delta_3``.
        """
        return _scores(self.sums)


class PerImageDepthMetrics(Accumulator):
    """Means over images of the metrics that :class:`DepthMetrics` takes over pixels, as VPD's.

    Only the Eigen crop counts: rows 45 to 471 and columns 41 to 601 of 480 x 640, the same share of
    other sizes. Images without a valid pixel there are left out.

    Args:
        min_depth_m: Targets at or below it are not counted.
        max_depth_m: Targets at or above it are not counted.
    """

    def __init__(
        self, *, min_depth_m: float = PER_IMAGE_MIN_M, max_depth_m: float = PER_IMAGE_MAX_M
    ) -> None:
        super().__init__(
            {"min_depth_m": min_depth_m, "max_depth_m": max_depth_m},
            images=zeros(),
            **{name: zeros() for name in _scores(_no_errors())},
        )
        self.min_depth_m = min_depth_m
        self.max_depth_m = max_depth_m

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch; see :meth:`DepthMetrics.update`.

        Raises:
            ShapeError: If a shape is another one.
            NotFiniteError: If a predicted value is infinite or not a number.
        """
        prediction = at_target_size(prediction, target)
        rows, columns = eigen_crop(*target.shape[-2:])
        prediction, target = prediction[..., rows, columns], target[..., rows, columns]
        valid = _in_range(target, self.min_depth_m, self.max_depth_m)
        for found, wanted, counted in zip(prediction, target, valid, strict=True):
            if counted.any():
                scores = _scores(_error_sums(found[counted], wanted[counted]))
                self._add(
                    images=torch.ones(()),
                    **{name: torch.tensor(value).double() for name, value in scores.items()},
                )

    def compute(self) -> dict[str, float]:
        """Return the metrics of :meth:`DepthMetrics.compute`."""
        images = self.sums["images"]
        return {name: ratio(total, images) for name, total in self.sums.items() if name != "images"}


def make_depth_metrics(
    *,
    protocol: DepthProtocol = "pooled",
    min_depth_m: float | None = None,
    max_depth_m: float | None = None,
) -> Accumulator:
    """Make the empty metrics of a protocol of :class:`schemas.config_metrics.MetricsSection`.

    Args:
        protocol: Over pixels or over images.
        min_depth_m: None for the protocol's own.
        max_depth_m: None for the protocol's own.
    """
    stated = {"min_depth_m": min_depth_m, "max_depth_m": max_depth_m}
    limits = {name: value for name, value in stated.items() if value is not None}
    return DepthMetrics(**limits) if protocol == "pooled" else PerImageDepthMetrics(**limits)


def eigen_crop(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the Eigen crop, at the same share of the image as of 480 x 640."""
    rows, columns = (
        slice(round(first * side / whole), round(last * side / whole))
        for (first, last), side, whole in zip(
            (EIGEN_ROWS, EIGEN_COLUMNS), (height, width), EIGEN_SIZE, strict=True
        )
    )
    return rows, columns


def _in_range(target: Tensor, min_depth_m: float, max_depth_m: float) -> Tensor:
    return (target > max(min_depth_m, 0.0)) & (target < max_depth_m)


def _no_errors() -> dict[str, Tensor]:
    return _error_sums(torch.zeros(0), torch.zeros(0))


def _error_sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Sums over valid pixels [N] from which all metrics follow, float64."""
    found, wanted = prediction.double().clamp_min(_SMALLEST_DEPTH_M), target.double()
    error = (found - wanted).abs()
    log_error = (found.log() - wanted.log()).abs()
    excess = torch.maximum(found / wanted, wanted / found)
    limits = excess.new_tensor([1.25**power for power in range(1, _NUM_DELTAS + 1)])
    return {
        "count": error.new_tensor(error.numel()),
        "squared": (error**2).sum(),
        "squared_log": (log_error**2).sum(),
        "absolute": error.sum(),
        "relative": (error / wanted).sum(),
        "squared_relative": (error**2 / wanted).sum(),
        "absolute_log": log_error.sum(),
        "below": (excess.unsqueeze(1) < limits).sum(dim=0).double(),
    }


def _scores(sums: dict[str, Tensor]) -> dict[str, float]:
    count = sums["count"]
    scores = {
        "rmse_m": ratio(sums["squared"], count) ** 0.5,
        "rmse_log": ratio(sums["squared_log"], count) ** 0.5,
        "abs_err_m": ratio(sums["absolute"], count),
        "abs_rel": ratio(sums["relative"], count),
        "sq_rel": ratio(sums["squared_relative"], count),
        "log10": ratio(sums["absolute_log"], count) / math.log(10),
    }
    for power, below in enumerate(sums["below"], start=1):
        scores[f"delta_{power}"] = ratio(below, count)
    return scores
