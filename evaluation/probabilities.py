"""What saliency and boundary scores expect of a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluation.accumulator import expect_finite
from evaluation.sizes import at_target_size

if TYPE_CHECKING:
    from torch import Tensor


def probabilities_at_target_size(prediction: Tensor, target: Tensor) -> Tensor:
    """Check a map of probabilities and bring it to the size of its labels.

    Args:
        prediction: [B, 1, h, w], every value in [0, 1].
        target: [B, 1, H, W].

    Returns:
        [B, 1, H, W], see :func:`evaluation.sizes.at_target_size`.

    Raises:
        ShapeError: If a shape is another one.
        NotFiniteError: If a predicted value is infinite or not a number.
        ValueError: If a value is no probability, as where scores before the sigmoid are given.
    """
    expect_finite(prediction)
    if prediction.numel() and (prediction.min() < 0 or prediction.max() > 1):
        raise ValueError(
            f"prediction: wanted probabilities in [0, 1], found {float(prediction.min()):g} to "
            f"{float(prediction.max()):g}; take the sigmoid of scores first"
        )
    return at_target_size(prediction, target)
