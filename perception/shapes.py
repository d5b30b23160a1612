"""Checks that an array has the shape its documentation promises."""

from __future__ import annotations

from typing import Protocol


def expect_shape(array: HasShape, pattern: str, *, name: str) -> dict[str, int]:
    """Check a shape against a pattern such as ``"B 3 H W"``.

    A number must match exactly; a word stands for any size, the same word for the same size.

    Args:
        array: A tensor or array.
        name: What the caller calls this array, for the message.

    Returns:
        The size each word of the pattern stands for.

    Raises:
        ShapeError: If rank, a number or a repeated word does not match.
    """
    wanted = pattern.split()
    found = tuple(array.shape)
    sizes: dict[str, int] = {}
    fits = len(wanted) == len(found)
    for word, size in zip(wanted, found, strict=False):
        expected = int(word) if word.isdigit() else sizes.setdefault(word, size)
        fits = fits and expected == size
    if not fits:
        raise ShapeError(f"{name}: wanted shape [{', '.join(wanted)}], found {list(found)}")
    return sizes


class HasShape(Protocol):
    """Anything with a ``shape``: torch tensors and numpy arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions, outermost first."""
        ...


class ShapeError(ValueError):
    """An array does not have the documented shape; the message says which was wanted and found."""
