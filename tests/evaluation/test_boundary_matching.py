"""One-to-one matching against all permutations, the assignment problem and networkx."""

from __future__ import annotations

import itertools
import math

import networkx
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from evaluation.boundary_matching import count_matches, find_candidates
from evaluation.growing_matching import GrowingMatching
from evaluation.thinning import ThinnedLevels


def points(seed: int, count: int, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    flat = rng.choice(shape[0] * shape[1], size=count, replace=False)
    return np.stack(np.unravel_index(np.sort(flat), shape), axis=1)


def as_levels(places: np.ndarray, present: np.ndarray) -> ThinnedLevels:
    return ThinnedLevels(places[:, 0], places[:, 1], present)


def as_map(places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[places[:, 0], places[:, 1]] = True
    return mask


def matches(found: np.ndarray, true: np.ndarray, shape, limit: float) -> int:
    present = np.ones((len(found), 1), dtype=bool)
    counts = count_matches(as_levels(found, present), as_map(true, shape), max_distance_px=limit)
    return int(counts[0])


def by_permutations(found: np.ndarray, true: np.ndarray, limit: float) -> int:
    close = cdist(found, true) <= limit
    few = close if len(found) <= len(true) else close.T
    orders = itertools.permutations(range(few.shape[1]), few.shape[0])
    rows = np.arange(few.shape[0])
    return max(int(few[rows, list(order)].sum()) for order in orders)


def by_assignment(found: np.ndarray, true: np.ndarray, limit: float) -> int:
    """Least total cost with outliers at 100 times the limit, as the MATLAB tool has it."""
    distance = cdist(found, true)
    cost = np.where(distance <= limit, distance, 100 * limit)
    rows, columns = linear_sum_assignment(cost)
    return int((distance[rows, columns] <= limit).sum())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("limit", [1.0, math.sqrt(2), 2.5])
def test_small_maps_agree_with_all_permutations(seed: int, limit: float) -> None:
    shape = (4, 5)
    found, true = points(seed, 3 + seed % 4, shape), points(100 + seed, 6 - seed % 3, shape)
    assert matches(found, true, shape, limit) == by_permutations(found, true, limit)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [0.7, 2.0, 3.7])
def test_larger_maps_agree_with_the_assignment_of_least_cost(seed: int, limit: float) -> None:
    shape = (24, 31)
    found, true = points(seed, 90 + 30 * seed, shape), points(100 + seed, 150, shape)
    assert matches(found, true, shape, limit) == by_assignment(found, true, limit)


@pytest.mark.parametrize("seed", range(5))
def test_every_level_has_a_maximum_matching_though_pixels_come_and_go(seed: int) -> None:
    shape, limit = (20, 24), 2.3
    found, true = points(seed, 200, shape), points(100 + seed, 110, shape)
    rng = np.random.default_rng(seed)
    strength = rng.random((200, 1)) + 0.15 * rng.standard_normal((200, 12))
    present = strength > np.linspace(0, 0.9, 12)
    counts = count_matches(as_levels(found, present), as_map(true, shape), max_distance_px=limit)
    for level in range(12):
        assert counts[level] == by_assignment(found[present[:, level]], true, limit)


@pytest.mark.parametrize("seed", range(4))
def test_a_random_graph_keeps_a_maximum_matching(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = rng.random((40, 30)) < 0.06
    matching = GrowingMatching(
        [np.flatnonzero(row).tolist() for row in edges],
        [np.flatnonzero(column).tolist() for column in edges.T],
    )
    present = np.zeros(40, dtype=bool)
    for _ in range(30):
        now = rng.random(40) < 0.6
        matching.change(
            np.flatnonzero(now & ~present).tolist(), np.flatnonzero(present & ~now).tolist()
        )
        present = now
        graph = networkx.Graph()
        lefts = [("left", i) for i in np.flatnonzero(present)]
        graph.add_nodes_from(lefts)
        graph.add_edges_from(
            (("left", i), ("right", j)) for i, j in np.argwhere(edges) if present[i]
        )
        paired = networkx.bipartite.hopcroft_karp_matching(graph, lefts)
        assert matching.size == len(paired) // 2


def test_candidates_are_all_true_pixels_within_reach_nearest_first() -> None:
    shape, limit = (30, 40), 4.3
    found, true = points(0, 80, shape), points(1, 200, shape)
    candidates = find_candidates(found[:, 0], found[:, 1], as_map(true, shape), limit)
    distance = cdist(found, true)
    forward, backward = candidates.as_lists()
    for row, neighbours in enumerate(forward):
        assert sorted(neighbours) == np.flatnonzero(distance[row] <= limit).tolist()
        assert (np.diff(distance[row, neighbours]) >= 0).all()
    for column, neighbours in enumerate(backward):
        assert sorted(neighbours) == np.flatnonzero(distance[:, column] <= limit).tolist()


def test_two_pixels_do_not_share_one() -> None:
    found, true = np.array([[5, 4], [5, 6]]), np.array([[5, 5]])
    assert matches(found, true, (10, 10), 3.0) == 1
