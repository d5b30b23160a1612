"""What InvPT and TaskPrompter have in common, on random maps and on a real backbone."""

from __future__ import annotations

import copy

import pytest
import torch

from perception.build import make_method
from perception.methods.protocol import DensePredictor, supervised_loss
from perception.state_file import load_state_bytes, state_to_bytes
from schemas.config_file import parse_config
from tests.kit.models.multi_task import (
    NYUD_TASKS,
    PASCAL_TASKS,
    SIX_TASKS,
    all_labels,
    image_pyramid,
    make_small_host,
    without_label,
)
from tests.kit.models.pyramids import make_labels
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone

pytestmark = pytest.mark.slow

both = pytest.mark.parametrize("name", ["invpt", "taskprompter"])


def make_host(name: str, *, seed: int = 0, tasks=SIX_TASKS) -> DensePredictor:
    config = parse_config(
        {
            "run": {"url": "memory://run", "seed": seed},
            "method": {"name": name, "tasks": list(tasks), "num_classes": 5},
            "training": {"warm_up": {"steps": 1}, "self_improve": {"steps": 1}},
        },
        origin="test",
    )
    return make_method(config, tiny_backbone())


def observe(host: DensePredictor, batch: int = 2):
    images = torch.rand(batch, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX) * 2 - 1
    return host.observe(tiny_backbone(), images)


@both
def test_no_gradient_reaches_the_backbone(name: str) -> None:
    host = make_host(name)
    loss, terms = supervised_loss(host, observe(host), make_labels(2, side=IMAGE_SIZE_PX))
    loss.backward()
    assert set(terms) == set(SIX_TASKS)
    assert all(value.grad is not None for value in host.parameters())
    backbone = tiny_backbone()
    for network in (backbone.unet, backbone.vae):
        assert all(value.grad is None for value in network.parameters())


@both
def test_weights_of_a_file_predict_what_the_saved_host_predicts(name: str) -> None:
    host, other = make_host(name, seed=1), make_host(name, seed=2)
    load_state_bytes(other, state_to_bytes(host))
    pyramid = observe(host)
    size = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    pairs = [(each.predict(pyramid, size).labels) for each in (host, other)]
    assert all(torch.equal(pairs[0][task], pairs[1][task]) for task in SIX_TASKS)


@both
def test_an_image_is_predicted_the_same_alone_and_in_a_batch(name: str) -> None:
    host = make_host(name, tasks=("depth",))
    pyramid = observe(host, 3)
    maps = tuple(tuple(each[1:2] for each in level) for level in pyramid.maps)
    alone = type(pyramid)(maps, pyramid.images[1:2])
    together = host.predict(pyramid, (32, 32)).labels["depth"][1:2]
    torch.testing.assert_close(host.predict(alone, (32, 32)).labels["depth"], together)


@both
def test_predicting_leaves_mode_and_buffers_alone_and_repeats_itself(name: str) -> None:
    host, pyramid = make_small_host(name).train(), image_pyramid(2)
    before = copy.deepcopy(host.state_dict())
    first, second = (host.predict(pyramid, (64, 64)) for _ in range(2))
    assert all(module.training for module in host.modules())
    assert all(torch.equal(before[name], value) for name, value in host.state_dict().items())
    assert all(torch.equal(first.labels[task], second.labels[task]) for task in SIX_TASKS)
    assert not any(label.requires_grad for label in first.labels.values())


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("invpt", SIX_TASKS), ("taskprompter", SIX_TASKS), ("taskprompter", NYUD_TASKS)],
)
def test_the_gradient_reaches_encoder_merge_and_decoder_and_no_feature(name: str, tasks) -> None:
    host, pyramid = make_small_host(name, tasks), image_pyramid(2)
    loss, terms = supervised_loss(host, pyramid, all_labels(2))
    loss.backward()
    assert set(terms) == set(tasks)
    assert [each for each, value in host.named_parameters() if value.grad is None] == []
    for part in (host.encoder, host.merge, host.decoder):
        assert any(value.grad.any() for value in part.parameters())
    assert all(each.grad is None for level in pyramid.maps for each in level)


@pytest.mark.parametrize("tasks", [("depth",), ("saliency", "normals"), PASCAL_TASKS])
@both
def test_any_subset_of_tasks_makes_a_host(name: str, tasks) -> None:
    host, pyramid = make_small_host(name, tasks), image_pyramid(2)
    loss, terms = supervised_loss(host, pyramid, all_labels(2))
    assert tuple(terms) == tasks
    assert set(host.predict(pyramid, (64, 64)).labels) == set(tasks)
    loss.backward()


@both
def test_an_unlabelled_task_gives_no_loss_and_changes_no_other_tasks_loss(name: str) -> None:
    host, labels = make_small_host(name).eval(), all_labels(2)
    outputs = host.forward_train(image_pyramid(2))
    _, terms = host.loss(outputs, labels)
    for task in SIX_TASKS:
        emptied = without_label(without_label(labels, task, 0), task, 1)
        _, changed = host.loss(outputs, emptied)
        assert changed[task] == 0
        assert all(changed[other] == terms[other] for other in SIX_TASKS if other != task)


@both
def test_equal_seeds_give_equal_weights_and_equal_losses(name: str) -> None:
    first, second = make_small_host(name, seed=3), make_small_host(name, seed=3)
    states = first.state_dict(), second.state_dict()
    assert all(torch.equal(states[0][each], states[1][each]) for each in states[0])
    losses = [
        supervised_loss(
            host,
            image_pyramid(4),
            all_labels(4),
            generator=torch.Generator().manual_seed(1),
        )[0]
        for host in (first, second)
    ]
    assert torch.equal(*losses)


@both
def test_the_host_learns_a_fixed_batch(name: str) -> None:
    host = make_small_host(name, ("normals", "depth", "saliency"))
    pyramid, labels = image_pyramid(2), all_labels(2)
    labels["saliency"] = (labels["normals"][:, :1] > 0).float()
    optimiser = torch.optim.Adam(host.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(10):
        loss, _ = supervised_loss(host, pyramid, labels, generator=generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
