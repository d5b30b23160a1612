"""Cross-entropy of the tasks whose labels are class ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from perception.losses.reduction import weighted_mean
from perception.shapes import expect_shape
from schemas.sample import IGNORE_ID

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy_loss(
    logits_BCHW: Tensor, ids_BHW: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over the pixels that have a class.

    Args:
        logits_BCHW: [B, num_classes, H, W].
        ids_BHW: int64 [B, H, W], class ids; 255 is ignored.
        weights: [B, 1, H, W], as for ``weighted_mean``.

    Returns:
        Scalar float32; 0 with a gradient of 0 if no pixel has a class.

    Raises:
        ShapeError: If the labels are not [B, H, W].
    """
    expect_shape(ids_BHW, "B H W", name="class labels")
    per_pixel = functional.cross_entropy(
        logits_BCHW.float(), ids_BHW, ignore_index=IGNORE_ID, reduction="none"
    )
    return weighted_mean(per_pixel, ids_BHW != IGNORE_ID, weights)
