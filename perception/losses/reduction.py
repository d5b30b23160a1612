"""The mean that every loss takes: over valid pixels, each with the weight of its image."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_SMALLEST_COUNT = 1e-8


def weighted_mean(values: Tensor, valid: Tensor, weights_B: Tensor | None) -> Tensor:
    """Mean over the valid pixels, each with the weight of its image.

    Args:
        values: float [B, ...]; where not valid they are ignored, but must be finite.
        valid: bool, same shape.
        weights_B: [B], at least 0; None means 1. Only ratios matter: weight 0 takes an image out.

    Returns:
        Scalar; 0 with a gradient of 0 if no pixel counts.
    """
    share = valid.to(values.dtype)
    if weights_B is not None:
        share = share * weights_B.to(values).view(-1, *[1] * (values.dim() - 1))
    return (values * share).sum() / share.sum().clamp_min(_SMALLEST_COUNT)
