"""Run a function on batches so that one bad sample costs only itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from schemas.errors import SampleError, StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

SAMPLE_ERRORS = (SampleError, RuntimeError, ValueError, LookupError, ArithmeticError, TypeError)
"""What a bad sample, or a batch that does not fit into memory, makes a network raise."""

STORE_FAILED, STORE_UNREACHABLE = "store_failed", "store_unreachable"
"""Reasons of attempts that no unit is to blame for: the disk is full or access is refused; the
store did not answer."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sample has no result.

    Attributes:
        reason: A short, stable word for counting.
        detail: The error's message.
    """

    reason: str
    detail: str


def failure_of(error: BaseException) -> Failure:
    """Describe an error for a manifest row."""
    if isinstance(error, SampleError):
        return Failure(error.reason, error.detail)
    if isinstance(error, StoreUnreachableError):
        return Failure(STORE_UNREACHABLE, str(error))
    if isinstance(error, OSError):
        return Failure(STORE_FAILED, str(error))
    return Failure(type(error).__name__, str(error)[:500])


def map_isolated(
    items: Sequence[Item],
    function: Callable[[Sequence[Item]], Sequence[Result]],
    *,
    batch_size: int,
) -> list[Result | Failure]:
    """Apply a batch function to items, at most ``batch_size`` at a time; see :func:`isolate`."""
    return [
        result
        for start in range(0, len(items), batch_size)
        for result in isolate(items[start : start + batch_size], function)
    ]


def isolate(
    batch: Sequence[Item], function: Callable[[Sequence[Item]], Sequence[Result]]
) -> list[Result | Failure]:
    """Apply a function to a batch; halve one that fails until each bad sample is by itself.

    Halving finds one bad sample among n in about 2·log2(n) calls, and finds the largest batch
    that fits when the error was a lack of memory. A sample by itself is tried once more.

    Args:
        function: Takes a batch, returns one result for each of its items, in order.

    Returns:
        A result or a :class:`Failure` for each item, in order.
    """
    try:
        return list(function(batch))
    except SAMPLE_ERRORS as error:
        if len(batch) == 1:
            return [_once_more(batch, function)]
        logger.warning(
            "batch_failed", extra={"batch_size": len(batch), "error": str(failure_of(error))}
        )
    middle = len(batch) // 2
    return isolate(batch[:middle], function) + isolate(batch[middle:], function)


def _once_more(
    batch: Sequence[Item], function: Callable[[Sequence[Item]], Sequence[Result]]
) -> Result | Failure:
    try:
        return function(batch)[0]
    except SAMPLE_ERRORS as error:
        return failure_of(error)
