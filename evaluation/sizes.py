"""Predictions are brought to the size of their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from evaluation.accumulator import expect_finite
from perception.shapes import expect_shape

if TYPE_CHECKING:
    from torch import Tensor


def at_target_size(prediction: Tensor, target: Tensor, *, num_channels: int = 1) -> Tensor:
    """Bring a map of continuous values to the size of its labels, bilinear, corners aligned.

    Args:
        prediction: [B, num_channels, h, w].
        target: [B, num_channels, H, W].
        num_channels: 3 for normals.

    Returns:
        [B, num_channels, H, W]; the prediction itself where the size is right.

    Raises:
        ShapeError: If a shape is another one.
        NotFiniteError: If a predicted value is infinite or not a number.
    """
    expect_shape(prediction, f"B {num_channels} h w", name="prediction")
    expect_finite(prediction)
    expect_shape(target, f"B {num_channels} H W", name="target")
    if prediction.shape == target.shape:
        return prediction
    return functional.interpolate(
        prediction, size=target.shape[-2:], mode="bilinear", align_corners=True
    )
