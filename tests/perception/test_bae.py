"""The whole method: shapes, gradients, prediction mode, and that it learns."""

from __future__ import annotations

import pytest
import torch

from perception.heads.normals_bae import BaeNormalsHead
from perception.methods.bae import make
from perception.methods.protocol import supervised_loss
from perception.state_file import keys_digest
from schemas.sample import TASKS
from tests.kit.models.pyramids import (
    SD_LEVELS,
    full_spec,
    make_labels,
    make_pyramid,
    make_small_method,
    make_spec,
)

ALL_TASKS = ("normals", "depth", "semseg")
SIX_TASKS = (*ALL_TASKS, "human_parts", "saliency", "boundaries")


def test_stable_diffusion_features_become_normals_of_the_published_sides() -> None:
    with torch.device("meta"):
        method = make(full_spec(), use_spectral_norm=False)
        maps = method.adapter(make_pyramid(2, levels=SD_LEVELS, lowest_side=8, device="meta").maps)
        head = method.heads["normals"]
        levels, final = head(maps), head.predict(maps)
    assert [tuple(level.prediction.shape) for level in levels] == [
        (2, 4, side, side) for side in (64, 128, 256, 512)
    ]
    assert [None if x.points is None else x.points.shape[1] for x in levels] == [
        None,
        int(0.4 * 128**2),
        int(0.4 * 256**2),
        int(0.4 * 512**2),
    ]
    assert tuple(final.shape) == (2, 4, 512, 512)
    assert [block.convolutions[0].out_channels for block in head.blocks] == [1024, 512, 256, 128]


def test_stable_diffusion_features_become_maps_of_every_plain_task_at_512() -> None:
    tasks = SIX_TASKS[1:]
    with torch.device("meta"):
        method = make(full_spec(tasks, num_classes=40), use_spectral_norm=False)
        pyramid = make_pyramid(1, levels=SD_LEVELS, lowest_side=8, device="meta")
        outputs = method.forward_train(pyramid)
    assert tuple(outputs.depth.depth_m.shape) == (1, 1, 512, 512)
    assert {task: tuple(logits.shape) for task, logits in outputs.logits.items()} == {
        "semseg": (1, 40, 512, 512),
        "human_parts": (1, 7, 512, 512),
        "saliency": (1, 1, 512, 512),
        "boundaries": (1, 1, 512, 512),
    }


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_last_level_has_the_side_of_the_image_for_every_factor(factor: int) -> None:
    method = make(make_spec(factor=factor))
    levels = method.forward_train(make_pyramid(1, lowest_side=1)).normals
    assert [level.prediction.shape[-1] for level in levels] == [
        8 << step for step in range(factor.bit_length())
    ]


def test_an_image_without_a_task_s_labels_leaves_that_task_to_the_other_image() -> None:
    method = make_small_method(SIX_TASKS).eval()
    whole, partial = make_labels(2), make_labels(2)
    invalid = {"semseg": 255, "human_parts": 255, "saliency": -1, "boundaries": -1}
    for task in SIX_TASKS:
        partial[task] = partial[task].clone()
        partial[task][0] = invalid.get(task, 0)

    def terms_of(labels, weights):
        generator = torch.Generator().manual_seed(0)
        found = supervised_loss(
            method, make_pyramid(2), labels, weights=weights, generator=generator
        )
        return {task: found[1][task] for task in SIX_TASKS if task != "normals"}

    second_only = terms_of(
        whole,
        {task: torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(-1, -1, 64, 64) for task in TASKS},
    )
    assert terms_of(partial, None) == pytest.approx(second_only, rel=1e-5)


def test_a_batch_without_a_task_s_labels_moves_none_of_that_task_s_weights() -> None:
    method, labels = make_small_method(SIX_TASKS), make_labels(2)
    for task, ignored in (("human_parts", 255), ("saliency", -1), ("depth", 0)):
        labels[task] = torch.full_like(labels[task], ignored)
    loss, terms = supervised_loss(method, make_pyramid(2), labels)
    loss.backward()
    for task in SIX_TASKS:
        gradients = [value.grad.abs().max() for value in method.heads[task].parameters()]
        is_labelled = task not in ("human_parts", "saliency", "depth")
        assert (terms[task] != 0.0) == is_labelled
        assert (max(gradients) > 0) == is_labelled


def test_the_run_s_factors_replace_the_host_s_own() -> None:
    spec = make_spec(("semseg", "human_parts", "boundaries"), task_weights={"boundaries": 3.0})
    loss, terms = supervised_loss(make(spec), make_pyramid(2), make_labels(2))
    wanted = terms["semseg"] + 2 * terms["human_parts"] + 3 * terms["boundaries"]
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_the_weights_of_a_normals_method_keep_their_names() -> None:
    method = make_small_method()
    parts = {".".join(name.split(".")[:2]) for name in method.state_dict()}
    assert {part for part in parts if part.startswith("heads")} == {"heads.normals"}
    assert keys_digest(method) == "13abd1cfe1c725f1dea93d134b88d1c68f86f8e9e5857105ec5bd934eb68219f"


def test_the_loss_is_the_weighted_sum_of_its_tasks() -> None:
    method = make_small_method(ALL_TASKS)
    method.task_weights = {"depth": 0.5}
    loss, terms = supervised_loss(method, make_pyramid(2), make_labels(2))
    wanted = terms["normals"] + 0.5 * terms["depth"] + terms["semseg"]
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_eq_7_without_synthetic_images_is_eq_6() -> None:
    method, pyramid, labels = make_small_method().eval(), make_pyramid(3), make_labels(3)

    def loss(weights):
        generator = torch.Generator().manual_seed(0)
        return supervised_loss(method, pyramid, labels, weights=weights, generator=generator)[0]

    assert torch.equal(loss(None), loss({task: torch.ones(3, 1, 64, 64) for task in TASKS}))


def test_eq_7_is_the_sum_over_real_and_over_synthetic_images() -> None:
    method = make_small_method(("semseg",)).eval()
    pyramid, labels = make_pyramid(3), make_labels(3)

    def summed_loss(first: int, last: int) -> float:
        part = type(pyramid)(
            tuple(tuple(each[first:last] for each in level) for level in pyramid.maps)
        )
        mean, _ = supervised_loss(method, part, {"semseg": labels["semseg"][first:last]})
        return (last - first) * mean.item()

    assert summed_loss(0, 3) == pytest.approx(summed_loss(0, 1) + summed_loss(1, 3), rel=1e-5)


def test_synthetic_labels_that_carry_a_gradient_are_refused() -> None:
    labels = make_labels(2)
    labels["normals"].requires_grad_()
    with pytest.raises(ValueError, match="without gradient"):
        supervised_loss(make_small_method(), make_pyramid(2), labels)


def test_a_task_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="depth"):
        supervised_loss(make_small_method(("normals", "depth")), make_pyramid(1), {})


def test_mixed_precision_changes_the_loss_only_a_little() -> None:
    method, pyramid, labels = make_small_method(ALL_TASKS), make_pyramid(2), make_labels(2)
    exact, _ = supervised_loss(method, pyramid, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = supervised_loss(method, pyramid, labels)
    mixed.backward()
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(exact.item(), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("task", SIX_TASKS[1:])
def test_the_plain_heads_learn_a_fixed_batch(task: str) -> None:
    method, pyramid, labels = make_small_method((task,)), make_pyramid(2), make_labels(2)
    labels["semseg"] = labels["human_parts"] = torch.tensor([1, 3]).view(2, 1, 1).expand(2, 64, 64)
    left = (torch.arange(64) < 32).float().view(1, 1, 1, 64).expand(2, 1, 64, 64)
    labels["saliency"], labels["boundaries"] = left, left
    optimiser = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss, _ = supervised_loss(method, pyramid, {task: labels[task]})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_task_without_its_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        make(make_spec(("semseg",), num_classes=1))


def test_choosing_every_point_makes_training_and_prediction_agree() -> None:
    method = make_small_method().eval()
    maps = method.adapter(make_pyramid(2).maps)
    head = method.heads["normals"]
    assert isinstance(head, BaeNormalsHead)
    head.point_fraction = 1.0
    torch.testing.assert_close(head(maps)[-1].prediction, head.predict(maps), atol=1e-4, rtol=1e-4)
