"""Losses against closed forms, and what masks and weights do to them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from perception.heads.normals_bae import NormalsLevel
from perception.losses.depth import log_error_loss, silog_loss, vpd_silog_loss
from perception.losses.multi_task import MULTI_TASK_LOSSES
from perception.losses.normals import (
    angmf_nll,
    expected_angular_error_deg,
    multi_level_normals_loss,
    normals_nll,
    vmf_nll,
)
from perception.losses.reduction import weighted_mean
from perception.losses.segmentation import cross_entropy_loss
from perception.points import read_points
from schemas.sample import INVALID_VALUES, TASK_KINDS

KAPPAS = (0.01, 0.5, 2.0, 10.0, 80.0)


def sphere_integral(density_of_cosine, weight=torch.ones_like) -> float:
    """Integrate a density that depends on the polar angle only over the unit sphere."""
    theta = torch.linspace(1e-7, math.pi - 1e-7, 200_001, dtype=torch.float64)
    ring = 2 * math.pi * torch.sin(theta)
    return float(torch.trapezoid(density_of_cosine(torch.cos(theta)) * ring * weight(theta), theta))


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("nll", [angmf_nll, vmf_nll])
def test_the_densities_integrate_to_one(nll, kappa: float) -> None:
    concentration = torch.tensor(kappa, dtype=torch.float64)

    def density(cosine: torch.Tensor) -> torch.Tensor:
        return torch.exp(-nll(cosine, concentration)) / (2 * math.pi)

    assert sphere_integral(density) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize(("kind", "nll"), [("angmf", angmf_nll), ("vmf", vmf_nll)])
def test_the_expected_angle_equals_its_integral(kind: str, nll, kappa: float) -> None:
    concentration = torch.tensor(kappa, dtype=torch.float64)

    def density(cosine: torch.Tensor) -> torch.Tensor:
        return torch.exp(-nll(cosine, concentration)) / (2 * math.pi)

    integral_deg = math.degrees(sphere_integral(density, weight=lambda theta: theta))
    formula_deg = expected_angular_error_deg(concentration, kind=kind).item()
    assert formula_deg == pytest.approx(integral_deg, abs=1e-4)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=1)


def prediction_of(normals: torch.Tensor, kappa: float = 2.0) -> torch.Tensor:
    return torch.cat([normals, torch.full_like(normals[:, :1], kappa)], dim=1)


@pytest.mark.parametrize("kind", ["angmf", "vmf"])
def test_a_perfect_or_opposite_normal_gives_a_finite_gradient(kind: str) -> None:
    truth = unit(2, 3, 4, 4)
    for sign in (1.0, -1.0):
        prediction = prediction_of(sign * truth).requires_grad_()
        normals_nll(prediction, truth, kind=kind).backward()
        assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("kind", ["angmf", "vmf"])
def test_a_batch_without_valid_normals_gives_zero_with_a_zero_gradient(kind: str) -> None:
    prediction = prediction_of(unit(2, 3, 4, 4)).requires_grad_()
    levels = [NormalsLevel(prediction=prediction)]
    loss = multi_level_normals_loss(levels, torch.zeros(2, 3, 4, 4), kind=kind)
    loss.backward()
    assert loss.item() == 0.0
    assert prediction.grad.abs().max() == 0.0


def test_only_valid_pixels_below_the_largest_cosine_count() -> None:
    truth, found = unit(1, 3, 6, 6), unit(1, 3, 6, 6, seed=1)
    found[..., 0] = truth[..., 0]
    truth[..., 1] = 0.0
    cosine = (truth * found).sum(dim=1)[..., 2:]
    wanted = angmf_nll(cosine[cosine.abs() < 0.999], torch.tensor(2.0)).mean()
    torch.testing.assert_close(normals_nll(prediction_of(found), truth), wanted)


def test_levels_are_summed_and_points_are_compared_with_their_own_labels() -> None:
    truth = unit(2, 3, 8, 8)
    coarse = prediction_of(unit(2, 3, 4, 4, seed=1))
    points = torch.stack([torch.randperm(64)[:20] for _ in range(2)])
    fine = prediction_of(unit(2, 3, 8, 8, seed=2))
    at_points = fine.flatten(2).gather(2, points.unsqueeze(1).expand(-1, 4, -1))
    levels = [
        NormalsLevel(prediction=coarse),
        NormalsLevel(prediction=fine, points=points, point_prediction=at_points),
    ]
    truth_at_points = truth.flatten(2).gather(2, points.unsqueeze(1).expand(-1, 3, -1))
    raised = functional.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=True)
    wanted = normals_nll(raised, truth) + normals_nll(at_points, truth_at_points)
    torch.testing.assert_close(multi_level_normals_loss(levels, truth), wanted)


def test_a_flip_of_image_and_labels_leaves_the_normals_loss_alone() -> None:
    truth, found = unit(2, 3, 8, 8), prediction_of(unit(2, 3, 8, 8, seed=1))
    mirror = torch.tensor([-1.0, 1.0, 1.0, 1.0]).view(1, 4, 1, 1)
    flipped = normals_nll(found.flip(-1) * mirror, truth.flip(-1) * mirror[:, :3])
    torch.testing.assert_close(flipped, normals_nll(found, truth))


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def label_of(task, seed=1):
    if TASK_KINDS[task] == "direction":
        return unit(2, 3, 8, 8, seed=seed)
    if TASK_KINDS[task] == "classes":
        return (3 * drawn(2, 8, 8, seed=seed)).long()
    return drawn(2, 1, 8, 8, seed=seed) + (TASK_KINDS[task] == "distance")


def output_of(task):
    channels = {"direction": 3, "classes": 3}.get(TASK_KINDS[task], 1)
    return drawn(2, channels, 8, 8) + 0.5


LOSSES = {
    "normals likelihood": ("normals", lambda out, *rest: normals_nll(prediction_of(out), *rest)),
    "scale-invariant depth": ("depth", silog_loss),
    "scale-invariant depth of VPD": ("depth", vpd_silog_loss),
    "error of depth": ("depth", lambda out, *rest: log_error_loss(out, out.exp(), *rest)),
    **{task: (task, loss) for task, loss in MULTI_TASK_LOSSES.items()},
}
every_loss = pytest.mark.parametrize(("task", "loss"), LOSSES.values(), ids=LOSSES)


@every_loss
def test_a_pixel_of_weight_zero_is_an_ignored_pixel(task, loss) -> None:
    output, label = output_of(task), label_of(task)
    weights = (drawn(2, 1, 8, 8, seed=2) > 0.4).float()
    ignored = torch.where(
        weights.bool().reshape(label[:, :1].shape if label.dim() == 4 else label.shape),
        label,
        torch.full_like(label, INVALID_VALUES[TASK_KINDS[task]]),
    )
    torch.testing.assert_close(loss(output, label, weights), loss(output, ignored, None))


@every_loss
def test_only_ratios_of_weights_count(task, loss) -> None:
    output, label = output_of(task), label_of(task)
    plain = loss(output, label, None)
    assert torch.equal(loss(output, label, torch.ones(2, 1, 8, 8)), plain)
    torch.testing.assert_close(loss(output, label, torch.full((2, 1, 8, 8), 0.3)), plain)


def test_the_weighted_mean_is_the_sum_of_weighted_values_over_the_sum_of_weights() -> None:
    values = torch.tensor([[[1.0, 5.0, 100.0]]])
    valid = torch.tensor([[[True, True, False]]])
    found = weighted_mean(values, valid, torch.tensor([[[[0.25, 0.75, 1.0]]]]))
    assert found.item() == pytest.approx(0.25 * 1 + 0.75 * 5)


def test_refined_normals_are_weighed_at_their_points() -> None:
    truth, points = unit(2, 3, 8, 8), torch.tensor([[0, 9, 63], [1, 2, 3]])
    guess = prediction_of(unit(2, 3, 8, 8, seed=1))
    level = NormalsLevel(
        prediction=guess, points=points, point_prediction=read_points(guess, points)
    )
    weights = torch.zeros(2, 1, 8, 8)
    weights[0, 0, 1, 1] = 1.0  # point 9
    found = multi_level_normals_loss([level], truth, weights)
    one = normals_nll(guess[:1, :, 1:2, 1:2], truth[:1, :, 1:2, 1:2])
    torch.testing.assert_close(found, one)


def test_silog_of_a_constant_factor_keeps_only_the_weighted_mean() -> None:
    depth_m = 1 + torch.rand(2, 1, 6, 6)
    wanted = 10 * math.sqrt(0.15 * math.log(2) ** 2 + 1e-6)
    assert silog_loss(2 * depth_m, depth_m).item() == pytest.approx(wanted, rel=1e-4)


def test_invalid_depth_has_no_influence_and_no_gradient() -> None:
    target_m = torch.rand(2, 1, 6, 6) + 1
    target_m[0] = 0.0
    depth_m = (target_m + 1).requires_grad_()
    loss = silog_loss(depth_m, target_m)
    loss.backward()
    assert depth_m.grad[0].abs().max() == 0.0
    torch.testing.assert_close(loss, silog_loss(depth_m[1:], target_m[1:]))


def test_the_error_estimate_learns_without_moving_the_depth() -> None:
    depth_m = torch.full((1, 1, 4, 4), 2.0, requires_grad=True)
    estimate = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = log_error_loss(estimate, depth_m, torch.ones(1, 1, 4, 4))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert depth_m.grad is None
    assert (estimate.grad < 0).all()


def test_ignored_pixels_do_not_count_in_the_cross_entropy() -> None:
    logits, ids = torch.randn(2, 4, 6, 6), torch.randint(0, 4, (2, 6, 6))
    ids[:, :3] = 255
    wanted = functional.cross_entropy(logits, ids, ignore_index=255)
    torch.testing.assert_close(cross_entropy_loss(logits, ids), wanted)
    nothing = cross_entropy_loss(logits.requires_grad_(), torch.full_like(ids, 255))
    nothing.backward()
    assert nothing.item() == 0.0
    assert logits.grad.abs().max() == 0.0


def test_labels_of_the_wrong_layout_are_refused() -> None:
    with pytest.raises(ValueError, match="normals"):
        multi_level_normals_loss([], torch.zeros(2, 8, 8, 3))
    with pytest.raises(ValueError, match="depth labels"):
        silog_loss(torch.ones(2, 1, 8, 8), torch.ones(2, 8, 8))
    with pytest.raises(ValueError, match="class labels"):
        cross_entropy_loss(torch.ones(2, 3, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.long))
