"""Boundary scores: F of one-to-one matched pixels, at one threshold for the whole data set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from evaluation.accumulator import Accumulator, probabilities_at_target_size, zeros
from evaluation.boundary_matching import count_matches
from evaluation.edge_nms import suppress_non_maxima
from evaluation.thinning import thin, thin_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Counts = NDArray[np.int64]
    Values = NDArray[np.float64]


class BoundaryMetrics(Accumulator):
    """ODS and OIS F-measure and average precision of boundaries, by the SEISM protocol.

    A predicted map is reduced to its ridges, and at each threshold t the pixels above t are thinned
    and matched one to one to the thinned true boundary. Matched, predicted and true pixels are
    summed over the data set for each threshold; ODS is the best F of these sums.

    Args:
        num_thresholds: Thresholds 0.001, 0.01, …, 0.99, 0.999 if 101.
        tolerance: Greatest distance of a match, as a share of the image's diagonal.
        nms: Whether a prediction is reduced to its ridges first.
    """

    def __init__(
        self, *, num_thresholds: int = 101, tolerance: float = 0.0075, nms: bool = True
    ) -> None:
        counted = torch.int64
        super().__init__(
            {"tolerance": tolerance, "nms": nms},
            matched=zeros(num_thresholds, dtype=counted),
            predicted=zeros(num_thresholds, dtype=counted),
            true=zeros(dtype=counted),
            best_matched=zeros(dtype=counted),
            best_predicted=zeros(dtype=counted),
        )
        self.thresholds = boundary_thresholds(num_thresholds)
        self.tolerance = tolerance
        self.nms = nms

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: [B, 1, h, w], probability in [0, 1]; brought to the target's size (bilinear,
                corners aligned).
            target: [B, 1, H, W], probability in [0, 1], a boundary from 0.5; -1 where not counted:
                there are neither predicted nor true boundaries.

        Raises:
            ShapeError: If a shape is another one.
            NotFiniteError: If a predicted value is infinite or not a number.
            ValueError: If a predicted value is no probability.
        """
        prediction = probabilities_at_target_size(prediction, target)
        found = (prediction.double() * (target >= 0)).cpu().numpy()
        for found_HW, wanted_HW in zip(found[:, 0], target.cpu().numpy()[:, 0], strict=True):
            self._count(found_HW, wanted_HW >= 0.5)

    def _count(self, probability_HW: Values, boundary_HW: NDArray[np.bool_]) -> None:
        matched, predicted, true = match_boundaries(
            probability_HW,
            boundary_HW,
            thresholds=self.thresholds,
            max_distance_px=self.tolerance * math.hypot(*boundary_HW.shape),
            nms=self.nms,
        )
        best = int(np.argmax(f_measure(matched, predicted, true)))
        self._add(
            matched=torch.from_numpy(matched),
            predicted=torch.from_numpy(predicted),
            true=torch.tensor(true),
            best_matched=torch.tensor(int(matched[best])),
            best_predicted=torch.tensor(int(predicted[best])),
        )

    def compute(self) -> dict[str, float]:
        """Return ``ods_f``, the threshold ``ods_threshold`` it is reached at, ``ois_f`` and ``ap``.

        ``ods_f`` is the greatest F at a threshold shared by all images, ``ois_f`` that of the sums
        at each image's own best threshold, ``ap`` the area below precision over recall.
        """
        sums = {name: value.numpy() for name, value in self.sums.items()}
        true = int(sums["true"])
        if not true:
            return dict.fromkeys(("ods_f", "ods_threshold", "ois_f", "ap"), math.nan)
        f = f_measure(sums["matched"], sums["predicted"], true)
        best = int(np.argmax(f))
        return {
            "ods_f": float(f[best]),
            "ods_threshold": float(self.thresholds[best]),
            "ois_f": float(f_measure(sums["best_matched"], sums["best_predicted"], true)),
            "ap": average_precision(sums["matched"], sums["predicted"], true),
        }


def boundary_thresholds(num: int) -> Values:
    """Return evenly spaced thresholds from 0 to 1 whose ends are drawn in to 0.001 and 0.999."""
    return np.linspace(0.0, 1.0, num).clip(0.001, 0.999)


def match_boundaries(
    probability_HW: Values,
    boundary_HW: NDArray[np.bool_],
    *,
    thresholds: Values,
    max_distance_px: float,
    nms: bool = True,
) -> tuple[Counts, Counts, int]:
    """Match one image's prediction to its true boundary at all thresholds.

    Args:
        probability_HW: Probability of a boundary, float64 [H, W].
        boundary_HW: The true boundary, thinned here, bool [H, W].
        thresholds: Ascending [T]; a pixel is predicted where its probability is above.
        nms: Whether the prediction is reduced to its ridges first.

    Returns:
        Matched pixels int64 [T], predicted pixels int64 [T], true pixels.
    """
    ridges = suppress_non_maxima(probability_HW) if nms else probability_HW
    levels = np.searchsorted(thresholds, ridges, side="left")
    predicted = thin_levels(levels, len(thresholds))
    true = thin(boundary_HW)
    matched = count_matches(predicted, true, max_distance_px=max_distance_px)
    return matched, predicted.present.sum(axis=0), int(true.sum())


def f_measure(matched: Counts, predicted: Counts, true: int) -> Values:
    """F of precision matched / predicted and recall matched / true; 0 where nothing is matched.

    2 P R / (P + R) = 2 · matched / (predicted + true).
    """
    return 2.0 * matched / np.maximum(predicted + true, 1)


def average_precision(matched: Counts, predicted: Counts, true: int) -> float:
    """Area below precision over recall, straight between thresholds, flat down to recall 0.

    Args:
        matched: [T].
        predicted: [T]; thresholds at which nothing is predicted have no precision and are left out.
        true: Above 0.
    """
    is_defined = predicted > 0
    if not is_defined.any():
        return 0.0
    recall = matched[is_defined] / true
    precision = matched[is_defined] / predicted[is_defined]
    order = np.lexsort((-precision, recall))
    recall, precision = recall[order], precision[order]
    return float(np.trapezoid([precision[0], *precision], [0.0, *recall]))
