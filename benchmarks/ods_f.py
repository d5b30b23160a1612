"""Time of the boundary score on random maps of NYUD's size, and what its 654 of them would take.

    python -m benchmarks.ods_f --maps 16 --processes 2

A true map holds the borders of a random mosaic with wavy cells. Its prediction is that map moved by
a few pixels, blurred and of varying strength, with weaker false borders of a second mosaic and a
floor of noise: at low thresholds it has several times as many pixels as the true map. Seconds of
the processor are counted too, as they do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import math
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from evaluation.boundaries import boundary_thresholds, f_measure, match_boundaries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Map = NDArray[np.float64]
    Timed = tuple[NDArray[np.int64], NDArray[np.int64], int, float]

NUM_TEST_IMAGES = 654
NUM_CELLS, NUM_FALSE_CELLS = 40, 60


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time of the boundary score.")
    parser.add_argument("--maps", type=int, default=16)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--tolerance", type=float, default=0.0075)
    parser.add_argument("--no-nms", action="store_true", help="predictions are not reduced")
    arguments = parser.parse_args()
    score = partial(score_pair, tolerance=arguments.tolerance, nms=not arguments.no_nms)
    pairs = [random_pair(seed, *arguments.size) for seed in range(arguments.maps)]
    with ProcessPoolExecutor(arguments.processes) as pool:
        list(pool.map(score, pairs[: arguments.processes]))
        start = time.perf_counter()
        found = list(pool.map(score, pairs))
        wall_s = (time.perf_counter() - start) / len(pairs)
    matched, predicted, true, cpu_s = (sum(each) for each in zip(*found, strict=True))
    height, width = arguments.size
    print(
        f"{len(pairs)} maps of {height} x {width}, tolerance {arguments.tolerance:g}, "
        f"{arguments.processes} processes: {true / len(pairs):.0f} true pixels, "
        f"{predicted[0] / len(pairs):.0f} predicted ones at the lowest threshold, "
        f"ods_f {f_measure(matched, predicted, true).max():.3f}"
    )
    cpu_s /= len(pairs)
    whole_cpu_s, whole_wall_s = NUM_TEST_IMAGES * cpu_s, NUM_TEST_IMAGES * wall_s
    print(f"boundary score, a map, processor: {cpu_s:.3f} s (no aim)")
    print(f"boundary score, a map, wall: {wall_s:.3f} s (no aim)")
    print(f"boundary score, {NUM_TEST_IMAGES} maps, processor: {whole_cpu_s:.0f} s (no aim)")
    print(f"boundary score, {NUM_TEST_IMAGES} maps, wall: {whole_wall_s:.0f} s (aim: minutes)")


def score_pair(pair: tuple[Map, NDArray[np.bool_]], *, tolerance: float, nms: bool) -> Timed:
    """Match one pair; the counts of ``match_boundaries`` and the seconds of processor it took."""
    start = time.process_time()
    counts = match_boundaries(
        *pair,
        thresholds=boundary_thresholds(101),
        max_distance_px=tolerance * math.hypot(*pair[1].shape),
        nms=nms,
    )
    return *counts, time.process_time() - start


def random_pair(seed: int, height: int, width: int) -> tuple[Map, NDArray[np.bool_]]:
    """Make a prediction, float64 [H, W] in [0, 1], and its true boundary, bool [H, W]."""
    noise = Noise(seed, height, width)
    true, false = (borders(mosaic(noise, cells)) for cells in (NUM_CELLS, NUM_FALSE_CELLS))
    rows, columns = np.mgrid[0:height, 0:width]
    displaced = [rows + 2 * noise.smooth(10), columns + 2 * noise.smooth(10)]
    moved = map_coordinates(true.astype(np.float64), displaced, order=1, mode="nearest")
    found = 2.5 * gaussian_filter(moved, 1.5) * noise.strength()
    found += 0.9 * gaussian_filter(false.astype(np.float64), 1.5) * noise.strength()
    found += 0.02 * np.abs(noise.smooth(1))
    return found.clip(0, 1), true


def mosaic(noise: Noise, num_cells: int) -> NDArray[np.intp]:
    """Number each pixel by the nearest of random points, seen through a wavy pane."""
    height, width = noise.shape
    rows, columns = np.mgrid[0:height, 0:width]
    places = np.stack([rows + 2 * noise.smooth(12), columns + 2 * noise.smooth(12)], axis=-1)
    centres = noise.rng.uniform((0, 0), noise.shape, size=(num_cells, 2))
    _, nearest = cKDTree(centres).query(places.reshape(-1, 2))
    return np.asarray(nearest).reshape(height, width)


def borders(ids: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Where an id differs from that to the right, below or diagonally below."""
    found = np.zeros(ids.shape, dtype=np.bool_)
    found[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    found[:-1] |= ids[1:] != ids[:-1]
    found[:-1, :-1] |= ids[1:, 1:] != ids[:-1, :-1]
    return found


class Noise:
    """Smooth random fields of one size from one seed."""

    def __init__(self, seed: int, height: int, width: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = (height, width)

    def smooth(self, sigma_px: float) -> Map:
        """A field of about unit deviation that changes over ``sigma_px``."""
        white = self.rng.standard_normal(self.shape)
        return 2 * math.sqrt(math.pi) * sigma_px * gaussian_filter(white, sigma_px)

    def strength(self) -> Map:
        """A field in (0, 1) with weak and strong regions."""
        return 1 / (1 + np.exp(-3 * self.smooth(15)))


if __name__ == "__main__":
    main()
