"""Predictions without a scale of their own, brought to their targets' by least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def scale_and_shift(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Find s and t of each image that make s * prediction + t nearest to the target.

    s = cov(prediction, target) / var(prediction), t = mean(target) - s mean(prediction), over the
    valid pixels; s is 0 for a constant prediction. Relative depth is fitted as disparity, 1 / depth
    (Ranftl et al., 2022), and scored as depth afterwards.

    Args:
        prediction: [B, 1, H, W].
        target: [B, 1, H, W], finite, also where not valid.
        valid: bool [B, 1, H, W], at least one pixel of each image.

    Returns:
        s and t, float64 [B, 1, 1, 1].
    """
    share = valid.double() / valid.sum(dim=(1, 2, 3), keepdim=True)

    def mean(values: Tensor) -> Tensor:
        return (values * share).sum(dim=(1, 2, 3), keepdim=True)

    found, wanted = prediction.double(), target.double()
    found_mean, wanted_mean = mean(found), mean(wanted)
    centred = found - found_mean
    variance = mean(centred.square())
    covariance = mean(centred * (wanted - wanted_mean))
    scale = torch.where(variance > 0, covariance / variance, 0.0)
    return scale, wanted_mean - scale * found_mean
