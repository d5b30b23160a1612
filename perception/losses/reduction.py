"""The mean that every loss takes: over valid pixels, each with its weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_SMALLEST_COUNT = 1e-8


def weighted_mean(values: Tensor, valid: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over the valid pixels, each with its weight.

    Args:
        values: float [B, 1, H, W], [B, H, W], or [B, N] for points; where not valid they are
            ignored, but must be finite.
        valid: bool, same shape.
        weights: [B, 1, H, W] or [B, 1, N], at least 0; None means 1. Only ratios matter: a pixel
            of weight 0 counts as little as an invalid one.

    Returns:
        Scalar; 0 with a gradient of 0 if no pixel counts.
    """
    share = valid.to(values.dtype)
    if weights is not None:
        share = share * weights.to(values).reshape(values.shape)
    return (values * share).sum() / share.sum().clamp_min(_SMALLEST_COUNT)
