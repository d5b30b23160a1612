"""Morphological thinning of a map at many thresholds at once, one bit a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[Any]  # uint64; numpy's own types take | of two of them for bool

_WORD_BITS = 64
_OFFSETS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
"""Row and column of the neighbours x1 … x8: east, then against the clock."""


def thin(mask_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin one map to convergence; see :func:`thin_levels`.

    Args:
        mask_HW: bool [H, W].

    Returns:
        bool [H, W].
    """
    thinned = thin_levels(mask_HW.astype(np.intp), 1)
    skeleton = np.zeros(mask_HW.shape, dtype=np.bool_)
    skeleton[thinned.rows, thinned.columns] = thinned.present[:, 0]
    return skeleton


def thin_levels(levels_HW: NDArray[np.intp], num_levels: int) -> ThinnedLevels:
    """Thin the nested maps ``levels > 0``, …, ``levels > num_levels - 1``, each to convergence.

    The parallel thinning of Guo and Hall (1989) with two sub-iterations, as in Lam, Lee and Suen
    (1992). All maps are thinned together: a pixel holds one bit for each of them, and the
    conditions are Boolean expressions on machine words. A pixel is looked at again only after a
    neighbour has gone.

    Args:
        levels_HW: Number of the maps that hold a pixel, [H, W], 0 to num_levels.
    """
    rows, columns = np.nonzero(levels_HW > 0)
    neighbours = _neighbours(levels_HW.shape, rows, columns)
    # One more pixel that is in no map stands for all neighbours outside.
    state = np.zeros((_num_words(num_levels), len(rows) + 1), dtype=np.uint64)
    state[:, :-1] = _first_bits(levels_HW[rows, columns], num_levels)
    waiting = np.ones((2, len(rows) + 1), dtype=np.bool_)
    waiting[:, -1] = False
    while waiting.any():
        for half in (0, 1):
            looked_at = np.flatnonzero(waiting[half])
            waiting[half] = False
            near = neighbours[:, looked_at]
            before = state[:, looked_at]
            after = before & ~_deletable([state[:, each] for each in near], half)
            state[:, looked_at] = after
            waiting[:, near[:, (before != after).any(axis=0)].ravel()] = True
            waiting[:, -1] = False
    return ThinnedLevels(rows, columns, _unpack(state[:, :-1], num_levels))


@dataclass(frozen=True, eq=False)
class ThinnedLevels:
    """Pixels that any of the maps held, and which of the thinned maps hold them.

    Attributes:
        rows: [N].
        columns: [N].
        present: bool [N, num_levels].
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    present: NDArray[np.bool_]


def _deletable(x: list[Bits], half: int) -> Bits:
    """Where a pixel may go, from its neighbours x1 … x8 (here x[0] … x[7])."""
    crossings = [~x[i] & (x[i + 1] | x[(i + 2) % 8]) for i in (0, 2, 4, 6)]
    pairs = [x[i] | x[i + 1] for i in (0, 2, 4, 6)]
    shifted = [x[i + 1] | x[(i + 2) % 8] for i in (0, 2, 4, 6)]
    one, two, three, four = crossings
    is_simple = (one ^ two ^ three ^ four) & ~((one & two) | (three & four))
    is_full = pairs[0] & pairs[1] & pairs[2] & pairs[3]
    is_full = is_full & shifted[0] & shifted[1] & shifted[2] & shifted[3]
    side = (x[1] | x[2] | ~x[7]) & x[0] if half == 0 else (x[5] | x[6] | ~x[3]) & x[4]
    return is_simple & _at_least_two(pairs) & _at_least_two(shifted) & ~is_full & ~side


def _at_least_two(x: list[Bits]) -> Bits:
    return (x[0] & x[1]) | (x[2] & x[3]) | ((x[0] | x[1]) & (x[2] | x[3]))


def _neighbours(
    shape: tuple[int, ...], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Numbers of the eight neighbours of each pixel, [8, N]; N for those outside all maps."""
    number = np.full((shape[0] + 2, shape[1] + 2), len(rows), dtype=np.intp)
    number[rows + 1, columns + 1] = np.arange(len(rows))
    return np.stack([number[rows + 1 + down, columns + 1 + right] for down, right in _OFFSETS])


def _num_words(num_levels: int) -> int:
    return -(-num_levels // _WORD_BITS)


def _first_bits(levels: NDArray[np.intp], num_levels: int) -> Bits:
    """Words whose lowest ``levels`` bits are set, [words, N]."""
    each_bit = np.arange(_num_words(num_levels) * _WORD_BITS)
    is_set = each_bit < np.arange(num_levels + 1)[:, None]
    table = np.packbits(is_set, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    return np.ascontiguousarray(table[levels].T)


def _unpack(state: Bits, num_levels: int) -> NDArray[np.bool_]:
    """The inverse of packing: bool [N, num_levels]."""
    as_bytes = np.ascontiguousarray(state.T).astype("<u8").view(np.uint8)
    bits = np.unpackbits(as_bytes, axis=1, count=num_levels, bitorder="little")
    return bits.astype(np.bool_)
