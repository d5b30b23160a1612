"""Sums that grow batch by batch and add up over workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

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
