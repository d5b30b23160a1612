"""Depth losses: scale-invariant, absolute, and that of the head's own error estimate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perception.losses.reduction import weighted_mean
from perception.shapes import expect_shape

_VARIANCE_OFFSET = 1e-6
_MEAN_WEIGHT = 0.15
_VPD_MEAN_WEIGHT = 0.5


def silog_loss(depth_m: Tensor, target_m: Tensor, weights: Tensor | None = None) -> Tensor:
    """Scale-invariant logarithmic loss, 10 · √(Var(g) + 0.15 · Mean(g)² + 1e-6), g = log d̂ - log d.

    Eigen et al. (2014), Eq. 4, with the constants of AdaBins and iDisc; mean and variance are taken
    over all valid pixels of the batch.

    Args:
        depth_m: Predicted depth, [B, 1, H, W], metres, positive.
        target_m: True depth, [B, 1, H, W], metres, 0 where invalid.
        weights: [B, 1, H, W], as for ``weighted_mean``.

    Returns:
        Scalar float32; 0 with a gradient of 0 if no pixel is valid.

    Raises:
        ShapeError: If the two are not of one shape [B, 1, H, W].
    """
    expect_shape(target_m, "B 1 H W", name="depth labels")
    expect_shape(depth_m, " ".join(map(str, target_m.shape)), name="predicted depth")
    valid = target_m > 0
    ratio_log = _log_ratio(depth_m, target_m, valid)
    mean = weighted_mean(ratio_log, valid, weights)
    variance = weighted_mean((ratio_log - mean) ** 2, valid, weights)
    # 1, or 0 where no pixel counts: the offset alone is no loss.
    is_any = weighted_mean(valid.to(ratio_log.dtype), valid, weights)
    return is_any * 10.0 * torch.sqrt(variance + _MEAN_WEIGHT * mean**2 + _VARIANCE_OFFSET)


def vpd_silog_loss(depth_m: Tensor, target_m: Tensor, weights: Tensor | None = None) -> Tensor:
    """Scale-invariant loss of VPD (Zhao et al., 2023): √(mean g² - 0.5 mean(g)²) of valid pixels.

    g = log d̂ - log d.

    Args:
        depth_m: Predicted depth, [B, 1, H, W], metres, positive.
        target_m: True depth, [B, 1, H, W], metres, 0 where invalid.
        weights: [B, 1, H, W], as for ``weighted_mean``.

    Returns:
        Scalar float32; 0 with a gradient of 0 if no pixel is valid.

    Raises:
        ShapeError: If the two are not of one shape [B, 1, H, W].
    """
    expect_shape(target_m, "B 1 H W", name="depth labels")
    expect_shape(depth_m, " ".join(map(str, target_m.shape)), name="predicted depth")
    valid = target_m > 0
    ratio_log = _log_ratio(depth_m, target_m, valid)
    mean_square = weighted_mean(ratio_log**2, valid, weights)
    mean = weighted_mean(ratio_log, valid, weights)
    # The offset keeps the root's gradient finite where every pixel is right.
    inside = mean_square - _VPD_MEAN_WEIGHT * mean**2 + _VARIANCE_OFFSET
    return inside.sqrt() - math.sqrt(_VARIANCE_OFFSET)


def log_error_loss(
    log_error: Tensor, depth_m: Tensor, target_m: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Teach the head its own error: mean |ê - |log d̂ - log d||, with no gradient into the depth.

    Args:
        log_error: Predicted absolute log error ê, [B, 1, H, W].
        depth_m: Predicted depth, [B, 1, H, W], metres, positive.
        target_m: True depth, [B, 1, H, W], metres, 0 where invalid.
        weights: [B, 1, H, W], as for ``weighted_mean``.

    Returns:
        Scalar float32.
    """
    valid = target_m > 0
    error = _log_ratio(depth_m.detach(), target_m, valid).abs()
    return weighted_mean((log_error.float() - error).abs(), valid, weights)


def depth_l1_loss(depth_m: Tensor, target_m: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean |d̂ - d| over the valid pixels, the depth loss of the multi-task recipes.

    Args:
        depth_m: Predicted depth, [B, 1, H, W], metres.
        target_m: True depth, [B, 1, H, W], metres, 0 where invalid.
        weights: [B, 1, H, W], as for ``weighted_mean``.

    Returns:
        Scalar float32 in metres; 0 with a gradient of 0 if no pixel is valid.

    Raises:
        ShapeError: If the two are not of one shape [B, 1, H, W].
    """
    expect_shape(target_m, "B 1 H W", name="depth labels")
    expect_shape(depth_m, " ".join(map(str, target_m.shape)), name="predicted depth")
    return weighted_mean((depth_m.float() - target_m).abs(), target_m > 0, weights)


def _log_ratio(depth_m: Tensor, target_m: Tensor, valid: Tensor) -> Tensor:
    """Return log d̂ - log d where valid, 0 with no gradient elsewhere."""
    one = torch.ones((), device=depth_m.device)
    return torch.log(torch.where(valid, depth_m.float(), one)) - torch.log(
        torch.where(valid, target_m.float(), one)
    )
