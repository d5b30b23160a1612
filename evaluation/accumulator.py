"""Sums that grow batch by batch and add up over workers, and what they expect of a prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.nn import functional

from perception.shapes import expect_shape
from schemas.errors import NotFiniteError

if TYPE_CHECKING:
    from collections.abc import Mapping


def ratio(part: Tensor, whole: Tensor) -> float:
    """Divide two scalars; not a number if there is nothing to divide by."""
    return float(part / whole) if whole > 0 else float("nan")


def expect_finite(prediction: Tensor) -> None:
    """Check a prediction before it is counted: one value that is not finite would spoil all sums.

    Raises:
        NotFiniteError: If a value is infinite or not a number.
    """
    num_bad = int((~prediction.isfinite()).sum())
    if num_bad:
        raise NotFiniteError(
            f"wanted a finite prediction, found {num_bad} of {prediction.numel()} values that are "
            "not; score weights from before the training went wrong"
        )


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


def probabilities_at_target_size(prediction: Tensor, target: Tensor) -> Tensor:
    """Check a map of probabilities and bring it to the size of its labels.

    Args:
        prediction: [B, 1, h, w], every value in [0, 1].
        target: [B, 1, H, W].

    Returns:
        [B, 1, H, W], see :func:`at_target_size`.

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


class Accumulator(ABC):
    """A metric family as a set of sums, all on the CPU, whose size does not grow with the data.

    Attributes:
        options: What decides how a batch is counted; sums of other options do not add up.
        sums: Name to tensor, int64 or float64; the sums of two data sets are the element-wise sums.
    """

    def __init__(self, options: Mapping[str, object], /, **sums: Tensor) -> None:
        self.options = options
        self.sums = sums

    @abstractmethod
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the metrics of everything counted; not a number where nothing was."""

    def merge(self, other: Self) -> None:
        """Count everything that ``other`` counted as well.

        Raises:
            ValueError: If the two do not count alike.
        """
        wanted, found = self._kind(), other._kind()
        if wanted != found:
            raise ValueError(
                f"wanted metrics {wanted}, found {found}; merge metrics of the same options"
            )
        for name, tensor in other.sums.items():
            self.sums[name] = self.sums[name] + tensor

    def _kind(self) -> tuple[str, Mapping[str, object], dict[str, tuple[int, ...]]]:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.sums.items()}
        return type(self).__name__, self.options, shapes

    def _add(self, **batch: Tensor) -> None:
        for name, tensor in batch.items():
            self.sums[name] = self.sums[name] + tensor.to(device="cpu", dtype=self.sums[name].dtype)


def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a sum that nothing was added to."""
    return torch.zeros(shape, dtype=dtype)
