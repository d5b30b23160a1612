"""How metrics are computed where publications differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DepthProtocol = Literal["pooled", "per_image"]
AbsentClasses = Literal["left_out", "zero"]
SaliencyProtocol = Literal["pooled", "per_image_f1"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricOptions:
    """Protocols of all metric families; the defaults pool all pixels of the data set.

    Attributes:
        depth_protocol: pooled: errors over all valid pixels of the data set; per_image: VPD's, the
            mean over images of each image's errors inside the Eigen crop, 1e-3 to 10 m.
        depth_min_m: Depths at or below it are not counted; absent: the protocol's.
        depth_max_m: Depths at or above it are not counted; absent: the protocol's.
        absent_classes: What a class that neither occurs nor is predicted adds to the mean
            intersection over union: left_out: nothing; zero: 0 (InvPT, TaskPrompter).
        saliency_protocol: pooled: maximal F, β² = 0.3, of precision and recall over the data set at
            19 thresholds; per_image_f1: ASTMT's and MTI-Net's, F1 of the means over images of
            precision and recall at 15 thresholds.
        saliency_double_sigmoid: Send saliency through one more sigmoid before it is thresholded,
            as InvPT, TaskPrompter and DiffusionMTL do.
        boundary_thresholds: Number of thresholds, between 0.001 and 0.999.
        boundary_tolerance: Greatest distance of a match, as a share of the image's diagonal:
            0.0075, or 0.011 as published for NYUD.
        boundary_nms: Whether predicted boundaries are reduced to their ridges; turn it off where
            they are thin already.
    """

    depth_protocol: DepthProtocol = "pooled"
    depth_min_m: float | None = None
    depth_max_m: float | None = None
    absent_classes: AbsentClasses = "left_out"
    saliency_protocol: SaliencyProtocol = "pooled"
    saliency_double_sigmoid: bool = False
    boundary_thresholds: int = 101
    boundary_tolerance: float = 0.0075
    boundary_nms: bool = True
