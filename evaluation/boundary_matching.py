"""One-to-one matching of predicted boundary pixels to true ones within a distance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.sparse import csr_array

from evaluation.growing_matching import GrowingMatching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from evaluation.thinning import ThinnedLevels

_CHUNK = 4096


def count_matches(
    predicted: ThinnedLevels, boundary_HW: NDArray[np.bool_], *, max_distance_px: float
) -> NDArray[np.int64]:
    """Size of a maximum matching of each predicted map to the true boundary.

    A predicted pixel is matched to at most one true pixel and the other way round, no further than
    ``max_distance_px`` apart. With one true map both precision and recall count the matched pairs
    alone, so no cost has to be minimised among the matchings of that size. The matching of a
    threshold starts from that of the next higher one.

    Args:
        predicted: Thinned maps; those of higher index hold fewer pixels.
        boundary_HW: The true boundary, bool [H, W].
        max_distance_px: Greatest distance, Euclidean, inclusive.

    Returns:
        int64 [num_levels].
    """
    near = maximum_filter(boundary_HW, 2 * int(max_distance_px) + 1)
    is_near = near[predicted.rows, predicted.columns]
    candidates = find_candidates(
        predicted.rows[is_near], predicted.columns[is_near], boundary_HW, max_distance_px
    )
    matching = GrowingMatching(*candidates.as_lists())
    present = predicted.present[is_near]
    sizes = np.zeros(present.shape[1], dtype=np.int64)
    for level, added, removed in _changes(present):
        matching.change(added, removed)
        sizes[level] = matching.size
    return sizes


def find_candidates(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    boundary_HW: NDArray[np.bool_],
    max_distance_px: float,
) -> Candidates:
    """List the true pixels within reach of each predicted pixel, nearest first.

    Args:
        rows: Of the predicted pixels, [N].
        columns: The same.
        boundary_HW: The true boundary, bool [H, W].
        max_distance_px: Greatest distance, inclusive.
    """
    reach = int(max_distance_px)
    number = np.full(tuple(side + 2 * reach for side in boundary_HW.shape), -1, dtype=np.int32)
    true_rows, true_columns = np.nonzero(boundary_HW)
    number[true_rows + reach, true_columns + reach] = np.arange(len(true_rows))
    down, right = _disc(max_distance_px)
    steps = down * number.shape[1] + right
    starts = (rows + reach) * number.shape[1] + columns + reach
    counts, indices = [np.zeros(1, dtype=np.intp)], [np.zeros(0, dtype=np.int32)]
    for first in range(0, len(starts), _CHUNK):
        found = number.ravel()[starts[first : first + _CHUNK, None] + steps]
        counts.append((found >= 0).sum(axis=1))
        indices.append(found[found >= 0])
    return Candidates(np.cumsum(np.concatenate(counts)), np.concatenate(indices), len(true_rows))


@dataclass(frozen=True, eq=False)
class Candidates:
    """A bipartite graph by rows: the right neighbours of each left vertex.

    Attributes:
        starts: Where the neighbours of each left vertex start, [N + 1].
        indices: Right vertices.
        num_right: Number of right vertices.
    """

    starts: NDArray[np.intp]
    indices: NDArray[np.int32]
    num_right: int

    def as_csr(self) -> csr_array:
        """The same as a sparse matrix of ones, [N, num_right]."""
        shape = (len(self.starts) - 1, self.num_right)
        ones = np.ones(len(self.indices), dtype=np.int8)
        return csr_array((ones, self.indices, self.starts), shape=shape)

    def as_lists(self) -> tuple[list[list[int]], list[list[int]]]:
        """Neighbours of each left and of each right vertex."""
        backward = self.as_csr().tocsc()
        return (
            _split(self.indices, self.starts),
            _split(backward.indices, backward.indptr),
        )


def _split(indices: NDArray[np.int32], starts: NDArray[np.intp]) -> list[list[int]]:
    flat, bounds = indices.tolist(), starts.tolist()
    return [flat[first:last] for first, last in pairwise(bounds)]


def _disc(radius_px: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All integer offsets no longer than a radius, shortest first."""
    side = np.arange(-int(radius_px), int(radius_px) + 1)
    down, right = (each.ravel() for each in np.meshgrid(side, side, indexing="ij"))
    squared = down**2 + right**2
    order = np.argsort(squared, kind="stable")
    order = order[squared[order] <= radius_px**2]
    return down[order], right[order]


def _changes(present: NDArray[np.bool_]) -> Iterator[tuple[int, list[int], list[int]]]:
    """Pixels that come and go from one map to the next, from the highest threshold down."""
    before = np.zeros(len(present), dtype=np.bool_)
    for level in reversed(range(present.shape[1])):
        now = present[:, level]
        added, removed = np.flatnonzero(now & ~before), np.flatnonzero(before & ~now)
        yield level, added.tolist(), removed.tolist()
        before = now
