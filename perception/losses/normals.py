"""Losses of normals: likelihoods on the sphere (AngMF, von Mises-Fisher), and absolute."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry import inverse_length
from perception.losses.reduction import weighted_mean
from perception.points import read_points, resize_nearest
from perception.shapes import expect_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perception.heads.normals_bae import NormalsLevel

NormalsLoss = Literal["angmf", "vmf"]

_LARGEST_COSINE = 0.999


def angmf_nll(cosine: Tensor, kappa: Tensor) -> Tensor:
    """Negative log-likelihood of the angular von Mises-Fisher distribution, without log 2π.

    -log(κ² + 1) + κ θ + log(1 + exp(-κ π)), θ in radians (Bae et al., 2021, Eq. 5).

    Args:
        cosine: cos θ between predicted and true normal, inside (-1, 1): the gradient of acos is
            infinite at ±1.
        kappa: Concentration, positive, same shape.

    Returns:
        Same shape; may be negative.
    """
    return (
        -torch.log(kappa**2 + 1)
        + kappa * torch.acos(cosine)
        + torch.log1p(torch.exp(-math.pi * kappa))
    )


def vmf_nll(cosine: Tensor, kappa: Tensor) -> Tensor:
    """Negative log-likelihood of the von Mises-Fisher distribution, without log 2π.

    -log κ - κ (cos θ - 1) + log(1 - exp(-2 κ)); arguments as for :func:`angmf_nll`.
    """
    return -torch.log(kappa) - kappa * (cosine - 1) + torch.log(-torch.expm1(-2 * kappa))


def expected_angular_error_deg(kappa: Tensor, *, kind: NormalsLoss = "angmf") -> Tensor:
    """Mean angle between the true normal and the prediction under the predicted distribution.

    AngMF: 2κ / (κ² + 1) + π exp(-κ π) / (1 + exp(-κ π)) radians (Bae et al., 2021, Eq. 6).
    vMF: π (exp(-κ) I₀(κ) - exp(-2κ)) / (1 - exp(-2κ)) radians, by parts from its density.

    Args:
        kappa: Concentration, positive, any shape.
        kind: Family of distributions that kappa was learnt with.

    Returns:
        Degrees, same shape, from 90 (kappa 0) towards 0.
    """
    if kind == "vmf":
        tail = torch.exp(-2 * kappa)
        mean = math.pi * (torch.special.i0e(kappa) - tail) / -torch.expm1(-2 * kappa)
        return torch.rad2deg(mean)
    tail = torch.exp(-math.pi * kappa)
    return torch.rad2deg(2 * kappa / (kappa**2 + 1) + math.pi * tail / (1 + tail))


def normals_nll(
    prediction: Tensor,
    normals: Tensor,
    weights: Tensor | None = None,
    *,
    kind: NormalsLoss = "angmf",
) -> Tensor:
    """Mean negative log-likelihood over the valid pixels of one level.

    AngMF leaves out pixels with |cos θ| ≥ 0.999, where the gradient of acos has no bound.

    Args:
        prediction: [B, 4, ...], the normal (any length) and kappa.
        normals: [B, 3, ...], the true unit normals, all-zero where invalid.
        weights: [B, 1, ...], as for ``weighted_mean``.

    Returns:
        Scalar float32.
    """
    prediction, normals = prediction.float(), normals.float()
    direction = prediction[:, :3]
    cosine = ((direction * normals).sum(dim=1, keepdim=True) * inverse_length(direction)).squeeze(1)
    valid = normals.abs().sum(dim=1) > 0
    nll: Callable[[Tensor, Tensor], Tensor] = vmf_nll
    if kind == "angmf":
        valid = valid & (cosine.abs() < _LARGEST_COSINE)
        nll = angmf_nll
    # The mask goes in before acos: 0 · infinity would make the gradient not a number.
    cosine = torch.where(valid, cosine, torch.zeros_like(cosine))
    return weighted_mean(nll(cosine, prediction[:, 3]), valid, weights)


def normals_l1_loss(prediction: Tensor, normals: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the valid pixels of Σ_c |n̂_c - n_c|, the normals loss of the multi-task recipes.

    Args:
        prediction: [B, 3, H, W], of any length; made unit here.
        normals: [B, 3, H, W], the true unit normals, all-zero where invalid.
        weights: [B, 1, H, W], as for ``weighted_mean``.

    Returns:
        Scalar float32; 0 with a gradient of 0 if no pixel is valid.

    Raises:
        ShapeError: If the two are not of one shape [B, 3, H, W].
    """
    expect_shape(normals, "B 3 H W", name="normals")
    expect_shape(prediction, " ".join(map(str, normals.shape)), name="predicted normals")
    direction = prediction.float()
    distance = (direction * inverse_length(direction) - normals).abs().sum(dim=1)
    return weighted_mean(distance, normals.abs().sum(dim=1) > 0, weights)


def multi_level_normals_loss(
    levels: Sequence[NormalsLevel],
    normals_B3HW: Tensor,
    weights: Tensor | None = None,
    *,
    kind: NormalsLoss = "angmf",
) -> Tensor:
    """Sum over the levels of their mean losses (Bae et al., 2021, section 3.3).

    The coarse level is up-sampled to the labels; a refinement is compared at its points, with the
    nearest label.

    Args:
        levels: What ``BaeNormalsHead`` returned in training.
        normals_B3HW: True unit normals, all-zero where invalid.
        weights: [B, 1, H, W], as for ``weighted_mean``.

    Returns:
        Scalar float32; 0 with a gradient of 0 if no pixel is valid.

    Raises:
        ShapeError: If ``normals_B3HW`` is not [B, 3, H, W].
    """
    expect_shape(normals_B3HW, "B 3 H W", name="normals")
    height, width = normals_B3HW.shape[-2:]
    total = normals_B3HW.new_zeros((), dtype=torch.float32)
    for level in levels:
        if level.points is None or level.point_prediction is None:
            prediction = functional.interpolate(
                level.prediction, size=(height, width), mode="bilinear", align_corners=True
            )
            total = total + normals_nll(prediction, normals_B3HW, weights, kind=kind)
        else:
            level_size = (level.prediction.shape[-2], level.prediction.shape[-1])
            normals_B3N = read_points(resize_nearest(normals_B3HW, level_size), level.points)
            at_points = None
            if weights is not None:
                at_points = read_points(resize_nearest(weights, level_size), level.points)
            total = total + normals_nll(level.point_prediction, normals_B3N, at_points, kind=kind)
    return total
