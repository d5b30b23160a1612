"""Fréchet distance between two sets of images in the feature space of a diffusion backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perception.diffusion.features import FeatureSettings, extract_features
from perception.shapes import ShapeError, expect_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from perception.diffusion.backbone import DiffusionBackbone

FEATURE_LEVELS = (0, 1, 2, 3)
BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution: mean [D] and covariance [D, D], float64."""

    mean: Tensor
    covariance: Tensor


def pooled_features(
    backbone: DiffusionBackbone, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
) -> Tensor:
    """Describe images by the spatial means of U-Net maps at every scale.

    One deterministic pass at timestep 0 under the empty prompt; the last map of each of the four
    levels is averaged over space.

    Args:
        images: N images, uint8 RGB [H, W, 3].

    Returns:
        float64 [N, D].
    """
    settings = FeatureSettings(posterior="mode", add_noise=False)
    batches = []
    for first in range(0, len(images), BATCH_SIZE):
        pyramid = extract_features(backbone, images[first : first + BATCH_SIZE], settings=settings)
        maps = [pyramid[level][-1].double().mean(dim=(2, 3)).cpu() for level in FEATURE_LEVELS]
        batches.append(torch.cat(maps, dim=1))
    return torch.cat(batches)


def fit_gaussian(features: Tensor) -> Gaussian:
    """Return mean and unbiased covariance of a set of features.

    Args:
        features: [N, D], N at least 2.

    Raises:
        ShapeError: If there are fewer than two rows.
    """
    expect_shape(features, "N D", name="features")
    if len(features) < 2:
        raise ShapeError(f"features: wanted at least 2 rows, found {len(features)}")
    covariance = torch.atleast_2d(torch.cov(features.double().T))
    return Gaussian(features.double().mean(dim=0), covariance)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Return the squared Fréchet distance (2-Wasserstein) of two normal distributions.

    d² = ‖m - n‖² + tr(A + B - 2 (A^½ B A^½)^½), Dowson & Landau (1982); the "FID" of Heusel et al.
    (2017) in another feature space.

    Args:
        one: Mean m and covariance A.
        other: Mean n and covariance B.

    Returns:
        A value of at least 0, in squared feature units.
    """
    root = _symmetric_root(one.covariance)
    cross = root @ other.covariance @ root
    shared = torch.linalg.eigvalsh((cross + cross.T) / 2).clamp_min(0).sqrt().sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * shared
    return max(float((one.mean - other.mean).square().sum() + spread), 0.0)


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
