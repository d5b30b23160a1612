"""Losses of saliency and boundaries: binary cross-entropy that balances rare positives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from perception.losses.reduction import weighted_mean
from perception.shapes import expect_shape

if TYPE_CHECKING:
    from torch import Tensor

BOUNDARY_POSITIVE_WEIGHT = 0.95
"""Weight of boundary pixels in InvPT's and TaskPrompter's recipes."""


def saliency_loss(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of salient and other pixels, balanced by their shares of the batch.

    One logit stands for two classes: it is the difference of the two logits of the papers.

    Args:
        logits: [B, 1, H, W].
        target: float32 [B, 1, H, W], probability in [0, 1], -1 ignored.
        weights: [B, 1, H, W], as for ``weighted_mean``.

    Returns:
        Scalar float32; 0 with a gradient of 0 if no pixel is valid, or all are of one class.

    Raises:
        ShapeError: If the two are not of one shape [B, 1, H, W].
    """
    return balanced_binary_loss(
        logits, target, weights, positive_weight=None, name="saliency labels"
    )


def boundaries_loss(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    positive_weight: float | None = BOUNDARY_POSITIVE_WEIGHT,
) -> Tensor:
    """Cross-entropy of boundary and other pixels; arguments as :func:`balanced_binary_loss`."""
    return balanced_binary_loss(
        logits, target, weights, positive_weight=positive_weight, name="boundary labels"
    )


def balanced_binary_loss(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    positive_weight: float | None,
    name: str = "labels",
) -> Tensor:
    """Mean over valid pixels of -w t log p - (1 - w)(1 - t) log(1 - p), p = sigmoid(logit).

    Xie & Tu (2015, holistically-nested edge detection), Eq. 2, with the mean for the sum.

    Args:
        logits: [B, 1, H, W].
        target: float32 [B, 1, H, W], t in [0, 1], hard or soft; -1 ignored.
        weights: [B, 1, H, W], as for ``weighted_mean``; they count in the shares too.
        positive_weight: w in [0, 1]; None: the share of negatives among the batch's valid pixels.
        name: What the labels are called in an error.

    Returns:
        Scalar float32; 0 with a gradient of 0 if no pixel is valid.

    Raises:
        ShapeError: If the two are not of one shape [B, 1, H, W].
    """
    expect_shape(target, "B 1 H W", name=name)
    expect_shape(logits, " ".join(map(str, target.shape)), name="predicted logits")
    valid = target >= 0
    positive = target.float().clamp_min(0.0)
    share: float | Tensor = (
        weighted_mean(1 - positive, valid, weights) if positive_weight is None else positive_weight
    )
    score = logits.float()
    missed = share * positive * functional.softplus(-score)
    invented = (1 - share) * (1 - positive) * functional.softplus(score)
    return weighted_mean(missed + invented, valid, weights)
