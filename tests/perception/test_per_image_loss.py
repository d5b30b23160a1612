"""The loss in which each image weighs the same, however many of its tasks have labels."""

from __future__ import annotations

import pytest
import torch

from perception.losses.multi_task import MULTI_TASK_LOSSES
from perception.losses.per_image import (
    image_weights,
    labelled_images,
    losses_of_images,
    mean_over_images,
)
from schemas.sample import INVALID_VALUES, TASK_KINDS, TASKS
from tests.kit.models.multi_task import CHANNELS
from tests.kit.models.pyramids import make_labels

SIDE = 8


def make_outputs(batch: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        task: torch.randn(batch, CHANNELS[task], SIDE, SIDE, generator=generator) for task in TASKS
    }


def without(labels, lacking: dict[str, list[int]]):
    found = {task: label.clone() for task, label in labels.items()}
    for task, images in lacking.items():
        found[task][images] = INVALID_VALUES[TASK_KINDS[task]]
    return found


def everything(batch: int) -> dict[str, torch.Tensor]:
    return {task: torch.arange(batch) for task in TASKS}


def total(outputs, labels, weights=None, *, tasks=TASKS) -> torch.Tensor:
    batch = len(labels[tasks[0]])
    losses = losses_of_images(outputs, everything(batch), labels, tasks, weights=weights or {})
    return mean_over_images(
        losses, labelled_images(labels, tasks), image_weights(labels, tasks, weights)
    )


def test_a_task_has_labels_in_an_image_if_one_pixel_is_valid() -> None:
    labels = without(make_labels(3, side=SIDE), {task: [0, 1] for task in TASKS})
    whole = make_labels(3, side=SIDE)
    for task in TASKS:
        labels[task][1, ..., 2, 3] = whole[task][1, ..., 2, 3]
    assert labelled_images(labels, TASKS).tolist() == [[False, True, True]] * len(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_all_images_at_once_are_each_image_alone(task) -> None:
    output, label = make_outputs(3)[task].requires_grad_(), make_labels(3, side=SIDE)[task]
    weights = torch.rand(3, 1, SIDE, SIDE)
    for given in (None, weights):
        found = losses_of_images(
            {task: output},
            {task: torch.arange(3)},
            {task: label},
            [task],
            weights={} if given is None else {task: given},
        )[0]
        alone = torch.stack(
            [
                MULTI_TASK_LOSSES[task](
                    output[i : i + 1],
                    label[i : i + 1],
                    None if given is None else given[i : i + 1],
                )
                for i in range(3)
            ]
        )
        torch.testing.assert_close(found, alone)
        gradients = [torch.autograd.grad(each.sum(), output)[0] for each in (found, alone)]
        torch.testing.assert_close(*gradients)


def test_rows_give_the_losses_of_their_images_and_zero_elsewhere() -> None:
    outputs, labels = make_outputs(4), make_labels(4, side=SIDE)
    whole = losses_of_images(outputs, everything(4), labels, TASKS, weights={})
    rows = {"depth": torch.tensor([1, 3])}
    chosen = {"depth": outputs["depth"][[1, 3]]}
    found = losses_of_images(chosen, rows, labels, TASKS, weights={})
    wanted = torch.zeros_like(whole)
    depth = TASKS.index("depth")
    wanted[depth, [1, 3]] = whole[depth, [1, 3]]
    torch.testing.assert_close(found, wanted)


def test_one_task_of_many_weighs_as_much_as_all_together() -> None:
    labels = make_labels(1, side=SIDE)
    losses = torch.rand(len(TASKS), 1)
    one = without(labels, {task: [0] for task in TASKS if task != "semseg"})
    for given, wanted in (
        (labels, losses.sum()),
        (one, len(TASKS) * losses[TASKS.index("semseg"), 0]),
    ):
        found = mean_over_images(
            losses, labelled_images(given, TASKS), image_weights(given, TASKS, None)
        )
        torch.testing.assert_close(found, wanted)


def first(values, count: int):
    return {task: each[:count] for task, each in values.items()}


def test_as_many_images_without_labels_halve_the_loss() -> None:
    outputs, labels = make_outputs(4), make_labels(4, side=SIDE)
    whole = total(first(outputs, 2), first(labels, 2))
    halved = total(outputs, without(labels, {task: [2, 3] for task in TASKS}))
    torch.testing.assert_close(halved, whole / 2)


def test_a_batch_without_labels_is_zero_with_a_gradient_of_zero() -> None:
    outputs = {task: each.requires_grad_() for task, each in make_outputs(2).items()}
    labels = without(make_labels(2, side=SIDE), {task: [0, 1] for task in TASKS})
    loss = total(outputs, labels)
    loss.backward()
    assert loss.item() == 0
    assert not any(each.grad.any() for each in outputs.values())


def test_what_is_predicted_without_a_label_never_matters() -> None:
    labels = without(make_labels(3, side=SIDE), {"depth": [0], "saliency": [0, 2], "semseg": [1]})
    found = []
    for seed in (1, 2):
        outputs = make_outputs(3)
        other = make_outputs(3, seed=seed)
        for task, images in (("depth", [0]), ("saliency", [0, 2]), ("semseg", [1])):
            outputs[task][images] = other[task][images]
        leaves = {task: each.requires_grad_() for task, each in outputs.items()}
        loss = total(leaves, labels)
        found.append((loss, *torch.autograd.grad(loss, list(leaves.values()))))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_equal_weights_change_nothing_and_ratios_within_an_image_are_those_of_its_mean() -> None:
    outputs, labels = make_outputs(2), make_labels(2, side=SIDE)
    halves = {task: torch.full((2, 1, SIDE, SIDE), 0.5) for task in TASKS}
    torch.testing.assert_close(total(outputs, labels, halves), total(outputs, labels))


def test_an_image_of_half_the_weight_counts_half_as_much() -> None:
    outputs, labels = make_outputs(2), make_labels(2, side=SIDE)
    one, two = (
        total(*({task: each[i : i + 1] for task, each in of.items()} for of in (outputs, labels)))
        for i in range(2)
    )
    weights = {task: torch.ones(2, 1, SIDE, SIDE) for task in TASKS}
    for each in weights.values():
        each[1] = 0.5
    found = total(outputs, labels, weights)
    torch.testing.assert_close(found, (one + 0.5 * two) / 1.5)


def test_weights_of_pixels_without_labels_play_no_part() -> None:
    labels = make_labels(1, side=SIDE)
    labels["depth"][:, :, : SIDE // 2] = 0
    weights = {"depth": torch.ones(1, 1, SIDE, SIDE)}
    weights["depth"][:, :, : SIDE // 2] = 0.1
    found = image_weights(labels, ("depth", "normals"), weights)
    torch.testing.assert_close(found, torch.ones(2, 1))
    nothing = without(labels, {"depth": [0]})
    assert image_weights(nothing, ("depth",), weights).item() == 0


def test_a_batch_that_weighs_nothing_is_zero_with_a_gradient_of_zero() -> None:
    outputs = {task: each.requires_grad_() for task, each in make_outputs(2).items()}
    weights = {task: torch.zeros(2, 1, SIDE, SIDE) for task in TASKS}
    loss = total(outputs, make_labels(2, side=SIDE), weights)
    loss.backward()
    assert loss.item() == 0
    assert not any(each.grad.any() for each in outputs.values())
