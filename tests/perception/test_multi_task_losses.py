"""The multi-task recipe's losses against closed forms, finite differences, and each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from perception.losses.depth import depth_l1_loss, silog_loss
from perception.losses.multi_task import MULTI_TASK_LOSSES, MULTI_TASK_WEIGHTS, multi_task_loss
from perception.losses.normals import normals_l1_loss
from perception.losses.probability import balanced_binary_loss, boundaries_loss, saliency_loss
from schemas.sample import INVALID_VALUES, TASK_KINDS, TASKS, Task

SHAPES: dict[str, tuple[int, int]] = {
    "direction": (3, 3),
    "distance": (1, 1),
    "classes": (5, 0),
    "probability": (1, 1),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raw_output(task: Task, *, batch: int = 3, side: int = 6, seed: int = 0) -> Tensor:
    channels = SHAPES[TASK_KINDS[task]][0]
    found = torch.randn(batch, channels, side, side, generator=generator(seed))
    return functional.softplus(found) + 0.1 if task == "depth" else found


def label_of(task: Task, *, batch: int = 3, side: int = 6, seed: int = 1) -> Tensor:
    """Labels with about a fifth of the pixels invalid."""
    draw = generator(seed)
    kind = TASK_KINDS[task]
    if kind == "classes":
        label = torch.randint(0, 5, (batch, side, side), generator=draw)
        return label.masked_fill(torch.rand(label.shape, generator=draw) < 0.2, 255)
    label = torch.randn(batch, SHAPES[kind][1], side, side, generator=draw)
    if kind == "direction":
        label = functional.normalize(label, dim=1)
    elif kind == "distance":
        label = 1 + label.abs()
    else:
        label = (label > 0.7).float()
    hole = torch.rand(batch, 1, side, side, generator=draw) < 0.2
    return label.masked_fill(hole, INVALID_VALUES[kind])


def no_label_of(task: Task) -> Tensor:
    return torch.full_like(label_of(task), INVALID_VALUES[TASK_KINDS[task]])


def log_sigmoid(score: float) -> float:
    return -math.log1p(math.exp(-score))


def test_saliency_weighs_either_class_by_the_share_of_the_other() -> None:
    scores, targets = [0.3, -1.2, 2.0, 0.5, -0.4], [1.0, 0.0, 0.0, 0.0, -1.0]
    logits, target = torch.tensor(scores).view(1, 1, 1, 5), torch.tensor(targets).view(1, 1, 1, 5)
    share_negative = 3 / 4
    wanted = -share_negative * log_sigmoid(0.3)
    wanted -= (1 - share_negative) * sum(log_sigmoid(-score) for score in scores[1:4])
    assert saliency_loss(logits, target).item() == pytest.approx(wanted / 4, rel=1e-6)


def test_saliency_equals_the_two_class_cross_entropy_with_those_class_weights() -> None:
    logits, target = raw_output("saliency"), label_of("saliency")
    valid = target >= 0
    share_negative = (target == 0).sum() / valid.sum()
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    ids = target.squeeze(1).long().masked_fill(~valid.squeeze(1), 255)
    summed = functional.cross_entropy(
        two,
        ids,
        weight=torch.stack([1 - share_negative, share_negative]),
        ignore_index=255,
        reduction="sum",
    )
    torch.testing.assert_close(saliency_loss(logits, target), summed / valid.sum())


def test_boundaries_weigh_positives_by_a_fixed_share_or_by_that_of_the_negatives() -> None:
    scores, targets = [0.3, -1.2, 2.0, 0.5], [1.0, 0.0, 0.0, -1.0]
    logits, target = torch.tensor(scores).view(1, 1, 2, 2), torch.tensor(targets).view(1, 1, 2, 2)
    positive, negative = -log_sigmoid(0.3), -log_sigmoid(1.2) - log_sigmoid(-2.0)
    fixed = (0.95 * positive + 0.05 * negative) / 3
    assert boundaries_loss(logits, target).item() == pytest.approx(fixed, rel=1e-6)
    adaptive = (2 / 3 * positive + 1 / 3 * negative) / 3
    found = boundaries_loss(logits, target, positive_weight=None).item()
    assert found == pytest.approx(adaptive, rel=1e-6)


def test_half_the_weight_is_half_the_plain_cross_entropy_for_soft_targets_too() -> None:
    logits, target = raw_output("saliency"), torch.rand(3, 1, 6, 6, generator=generator(2))
    plain = functional.binary_cross_entropy_with_logits(logits, target)
    found = balanced_binary_loss(logits, target, positive_weight=0.5)
    torch.testing.assert_close(found, plain / 2)


def test_a_soft_target_is_the_mixture_of_the_hard_ones() -> None:
    logits = raw_output("boundaries")
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    found = boundaries_loss(logits, torch.full_like(logits, 0.3))
    wanted = 0.3 * boundaries_loss(logits, ones) + 0.7 * boundaries_loss(logits, zeros)
    torch.testing.assert_close(found, wanted)


def test_extreme_logits_give_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4]).view(1, 1, 2, 2).requires_grad_()
    loss = boundaries_loss(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2))
    loss.backward()
    assert loss.item() == pytest.approx((0.05 * 1e4 + 0.95 * 1e4) / 4)
    assert torch.isfinite(logits.grad).all()


def test_the_normals_distance_sums_over_channels_and_knows_no_length() -> None:
    truth = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    truth[..., 1, 1] = 0.0
    found = torch.tensor([3.0, 0.0, 4.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert normals_l1_loss(found, truth).item() == pytest.approx(0.6 + 0.2)
    assert normals_l1_loss(7 * found, truth).item() == pytest.approx(0.6 + 0.2)
    assert normals_l1_loss(truth + 0.0, truth).item() == 0.0


def test_the_depth_distance_is_in_metres_of_the_valid_pixels() -> None:
    found = torch.tensor([1.5, 2.0, 9.0, 4.0]).view(1, 1, 2, 2)
    truth = torch.tensor([1.0, 3.0, 0.0, 4.0]).view(1, 1, 2, 2)
    assert depth_l1_loss(found, truth).item() == pytest.approx(1.5 / 3)


def of_images(weights: Sequence[float], *, side: int) -> Tensor:
    """One weight for all pixels of an image: [B, 1, side, side]."""
    return torch.tensor(weights).view(-1, 1, 1, 1).expand(-1, 1, side, side)


@pytest.mark.parametrize("task", TASKS)
def test_gradients_equal_finite_differences(task: Task) -> None:
    label = label_of(task, batch=2, side=3)
    label = label if TASK_KINDS[task] == "classes" else label.double()
    raw = raw_output(task, batch=2, side=3).double().requires_grad_()

    def loss(values: Tensor) -> Tensor:
        # Losses calculate in float32, so differences are taken over a long step.
        return MULTI_TASK_LOSSES[task](values, label, of_images([1.0, 0.5], side=3))

    (slope,) = torch.autograd.grad(loss(raw), raw)
    step = 1e-2
    flat = raw.detach().flatten()
    for index in range(0, flat.numel(), 5):
        moved = flat.clone()
        moved[index] += step
        ahead = loss(moved.view_as(raw)).item()
        moved[index] -= 2 * step
        behind = loss(moved.view_as(raw)).item()
        assert (ahead - behind) / (2 * step) == pytest.approx(
            slope.flatten()[index].item(), abs=3e-5
        )


@pytest.mark.parametrize("task", TASKS)
def test_nothing_valid_gives_zero_with_a_zero_gradient(task: Task) -> None:
    raw = raw_output(task).requires_grad_()
    loss = MULTI_TASK_LOSSES[task](raw, no_label_of(task), None)
    loss.backward()
    assert loss.item() == 0.0
    assert raw.grad.abs().max() == 0.0


def test_silog_without_a_valid_pixel_is_zero() -> None:
    assert silog_loss(torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)).item() == 0.0


@pytest.mark.parametrize("task", TASKS)
def test_invalid_pixels_have_no_gradient(task: Task) -> None:
    raw, label = raw_output(task).requires_grad_(), label_of(task)
    MULTI_TASK_LOSSES[task](raw, label, None).backward()
    is_hole = label == INVALID_VALUES[TASK_KINDS[task]]
    is_hole = is_hole.unsqueeze(1) if is_hole.dim() == 3 else is_hole.all(dim=1, keepdim=True)
    moves = raw.grad.abs().sum(dim=1, keepdim=True)
    assert is_hole.any()
    assert moves[is_hole].max() == 0.0
    assert moves[~is_hole].max() > 0.0


@pytest.mark.parametrize("task", TASKS)
def test_weight_zero_takes_an_image_out_and_one_changes_nothing(task: Task) -> None:
    raw, label, loss = raw_output(task), label_of(task), MULTI_TASK_LOSSES[task]
    side = label.shape[-1]
    ones = of_images([1.0, 1.0, 1.0], side=side)
    torch.testing.assert_close(loss(raw, label, ones), loss(raw, label, None))
    without = loss(raw, label, of_images([2.0, 0.0, 2.0], side=side))
    torch.testing.assert_close(without, loss(raw[[0, 2]], label[[0, 2]], None))


def test_the_total_is_the_sum_with_the_recipe_s_factors_or_the_given_ones() -> None:
    raw = {task: raw_output(task) for task in TASKS}
    labels = {task: label_of(task) for task in TASKS}
    total, terms = multi_task_loss(raw, labels)
    assert MULTI_TASK_WEIGHTS == {
        "semseg": 1,
        "human_parts": 2,
        "saliency": 5,
        "boundaries": 50,
        "normals": 10,
        "depth": 1,
    }
    wanted = sum(MULTI_TASK_WEIGHTS[task] * terms[task] for task in TASKS)
    assert total.item() == pytest.approx(wanted, rel=1e-5)
    total, again = multi_task_loss(raw, labels, task_weights={"boundaries": 0.0, "depth": 3.0})
    assert again == terms
    wanted += 2 * terms["depth"] - 50 * terms["boundaries"]
    assert total.item() == pytest.approx(wanted, rel=1e-5)


def test_only_predicted_tasks_count_and_their_labels_alone_are_needed() -> None:
    raw = {"semseg": raw_output("semseg")}
    _, terms = multi_task_loss(raw, {"semseg": label_of("semseg"), "depth": label_of("depth")})
    assert set(terms) == {"semseg"}


def test_a_batch_whose_images_have_different_labels_learns_each_from_its_own() -> None:
    raw = {task: raw_output(task).requires_grad_() for task in TASKS}
    labels = {task: label_of(task) for task in TASKS}
    for place, task in enumerate(TASKS):
        labels[task][place % 3] = no_label_of(task)[0]
    multi_task_loss(raw, labels)[0].backward()
    for place, task in enumerate(TASKS):
        moves = raw[task].grad.abs().amax(dim=(1, 2, 3))
        assert moves[place % 3] == 0.0
        assert (moves > 0).sum() == 2


@pytest.mark.parametrize("task", TASKS)
def test_half_precision_outputs_give_a_single_precision_loss(task: Task) -> None:
    loss = MULTI_TASK_LOSSES[task](raw_output(task).bfloat16(), label_of(task), None)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("task", ["normals", "depth", "saliency", "boundaries"])
def test_outputs_of_another_size_than_the_labels_are_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="predicted"):
        MULTI_TASK_LOSSES[task](raw_output(task, side=3), label_of(task), None)
