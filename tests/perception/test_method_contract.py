"""What every method fulfils, on a tiny backbone: a new method is one more entry of ``METHODS``."""

from __future__ import annotations

import copy
import functools
from typing import get_args

import pytest
import torch

from perception.build import make_method
from perception.diffusion.features import FeaturePyramid
from perception.methods.protocol import DensePredictor, Predictions, supervised_loss
from perception.state_file import load_state_bytes, state_to_bytes
from schemas.config_file import parse_config
from schemas.config_method import PAIR_MODELS, MethodSection
from schemas.sample import NUM_HUMAN_PARTS, TASK_KINDS, TASKS
from tests.kit.models.pyramids import make_labels
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone

METHODS = {
    "bae": TASKS,
    "bae_efficientnet": ("normals",),
    "diffusionmtl": TASKS,
    "idisc": ("normals", "depth"),
    "invpt": TASKS,
    "jointnet": ("normals",),
    "mtdiffusion": TASKS,
    "taskdiffusion": TASKS,
    "taskprompter": TASKS,
    "vpd": ("semseg", "depth"),
}
SIZE = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
NUM_CLASSES = {"semseg": 5, "human_parts": NUM_HUMAN_PARTS}
EMPTY = {"direction": 0.0, "distance": 0.0, "classes": 255, "probability": -1.0}
FALLS_TO = {
    **{"bae": 0.7, "bae_efficientnet": 0.7, "diffusionmtl": 0.7, "idisc": 0.5},
    **{"invpt": 0.6, "jointnet": 0.7, "mtdiffusion": 0.7, "taskdiffusion": 0.6},
    **{"taskprompter": 0.6, "vpd": 0.7},
}
"""Share of the first loss that twelve steps on one batch leave."""

# Where latents are a quarter of an image's side, its decoder has no place for the coarsest maps.
UNREACHED = {"bae_efficientnet": "encoder.encoder."}

every_method = pytest.mark.parametrize("name", METHODS)


def make(name: str, tasks=None, *, seed: int = 0) -> DensePredictor:
    method = {"name": name, "tasks": list(tasks or METHODS[name]), "num_classes": 5}
    if name == "vpd":
        method["class_names"] = ["bed", "sofa", "lamp", "table", "room"]
    stage = {"steps": 1}
    tree = {
        "run": {"url": "memory://run", "seed": seed},
        "method": method,
        "pairs": {"predict_samples": 2, "predict_steps": 2},
        "training": {"warm_up": stage, "self_improve": stage},
    }
    made = make_method(parse_config(tree, origin="test"), tiny_backbone())
    if name in PAIR_MODELS:
        # They start as the backbone, whatever the seed: moved off it, each seed has its weights.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in made.parameters():
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.02)
    return made


def make_images(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear") * 2 - 1


def observe(method: DensePredictor, count: int = 2) -> FeaturePyramid:
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    return method.observe(tiny_backbone(), make_images(count), generators=generators)


@functools.cache
def labels_of(count: int = 2):
    return make_labels(count, side=IMAGE_SIZE_PX)


def emptied(tasks, images=slice(None)):
    found = {task: label.clone() for task, label in labels_of().items()}
    for task in tasks:
        found[task][images] = EMPTY[TASK_KINDS[task]]
    return found


def loss_of(method, pyramid, labels, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return supervised_loss(method, pyramid, labels, generator=generator)


def with_leaves(pyramid: FeaturePyramid) -> tuple[FeaturePyramid, list[torch.Tensor]]:
    """The pyramid's maps and images as tensors that take a gradient."""
    maps = tuple(tuple(m.detach().requires_grad_() for m in level) for level in pyramid.maps)
    images = pyramid.images.detach().clone().requires_grad_()
    return FeaturePyramid(maps, images), [images, *(m for level in maps for m in level)]


def expect_gradients(name: str, method: DensePredictor) -> None:
    """A finite one at every parameter, one that is not zero in every part of the method."""
    found = {key: value.grad for key, value in method.named_parameters()}
    missing = {key for key, gradient in found.items() if gradient is None}
    assert {key for key in missing if not key.startswith(UNREACHED.get(name, "none"))} == set()
    reached = {key: gradient for key, gradient in found.items() if key not in missing}
    assert all(gradient.isfinite().all() for gradient in reached.values())
    parts = {key.partition(".")[0] for key, gradient in reached.items() if gradient.any()}
    assert parts == {key.partition(".")[0] for key in found}


def test_every_method_of_the_configuration_is_here():
    assert set(get_args(MethodSection.model_fields["name"].annotation)) == METHODS.keys()


@every_method
def test_it_is_a_predictor_of_the_tasks_that_were_asked_for(name):
    method = make(name)
    assert isinstance(method, DensePredictor)
    assert tuple(method.tasks) == METHODS[name]


@every_method
def test_predictions_are_encoded_like_labels_at_the_size_asked_for(name):
    method = make(name)
    found = method.predict(observe(method), (48, 80))
    assert isinstance(found, Predictions)
    assert set(found.labels) == set(found.reliability) == set(METHODS[name])
    for task in METHODS[name]:
        label, reliability = found.labels[task], found.reliability[task]
        kind = TASK_KINDS[task]
        channels = {"direction": (3,), "classes": ()}.get(kind, (1,))
        assert tuple(label.shape) == (2, *channels, 48, 80)
        assert label.dtype == (torch.int64 if kind == "classes" else torch.float32)
        assert tuple(reliability.shape) == (2, 1, 48, 80)
        assert reliability.dtype == torch.float32
        assert 0 <= reliability.min() <= reliability.max() <= (90 if kind == "direction" else 1)
        if kind == "direction":
            length = torch.linalg.vector_norm(label, dim=1)
            torch.testing.assert_close(length, torch.ones_like(length))
            continue
        assert reliability.min() > 0
        if kind == "distance":
            assert label.min() > 0
        elif kind == "classes":
            assert 0 <= label.min() <= label.max() < NUM_CLASSES[task]
        else:
            assert 0 <= label.min() <= label.max() <= 1
            torch.testing.assert_close(reliability, torch.maximum(label, 1 - label))


@every_method
def test_predicting_changes_nothing_repeats_itself_and_carries_no_gradient(name):
    method = make(name).train()
    pyramid, before = observe(method), copy.deepcopy(method.state_dict())
    first, second = (method.predict(pyramid, SIZE) for _ in range(2))
    assert all(module.training for module in method.modules())
    third = method.eval().predict(pyramid, SIZE)
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
    for task in METHODS[name]:
        assert torch.equal(first.labels[task], second.labels[task])
        assert torch.equal(first.labels[task], third.labels[task])
        assert not first.labels[task].requires_grad
        assert not first.reliability[task].requires_grad


@every_method
def test_an_image_is_predicted_the_same_by_itself_and_in_a_batch(name):
    method = make(name)
    pyramid = observe(method, 3)
    maps = tuple(tuple(each[1:2] for each in level) for level in pyramid.maps)
    seeds = None if pyramid.seeds is None else pyramid.seeds[1:2]
    single = method.predict(FeaturePyramid(maps, pyramid.images[1:2], seeds), SIZE)
    for task, label in method.predict(pyramid, SIZE).reliability.items():
        torch.testing.assert_close(single.reliability[task], label[1:2], atol=1e-4, rtol=1e-4)


@every_method
def test_a_finite_gradient_reaches_every_parameter_and_nothing_of_the_backbone(name):
    method = make(name).train()
    loss, terms = loss_of(method, observe(method), labels_of())
    loss.backward()
    assert loss.shape == ()
    assert set(terms) == set(METHODS[name])
    expect_gradients(name, method)
    for network in (tiny_backbone().unet, tiny_backbone().vae):
        assert all(value.grad is None for value in network.parameters())


@every_method
def test_a_batch_without_labels_teaches_nothing(name):
    method = make(name).train()
    loss, _ = loss_of(method, observe(method), emptied(METHODS[name]))
    loss.backward()
    trained = [value.grad for value in method.parameters() if value.grad is not None]
    assert trained
    assert all(float(gradient.abs().sum()) == 0 for gradient in trained)


@every_method
def test_a_task_without_labels_costs_nothing_and_changes_no_other_task_s_loss(name):
    method = make(name).eval()
    outputs = method.forward_train(observe(method))
    _, terms = method.loss(outputs, labels_of())
    for task in METHODS[name]:
        _, changed = method.loss(outputs, emptied([task]))
        assert changed[task] == pytest.approx(0, abs=1e-6)
        assert all(changed[other] == terms[other] for other in METHODS[name] if other != task)


@every_method
def test_an_image_without_labels_teaches_nothing(name):
    method = make(name).eval()
    pyramid, leaves = with_leaves(observe(method))
    loss, _ = loss_of(method, pyramid, emptied(METHODS[name], images=0))
    loss.backward()
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert all(gradient[0].abs().sum() == 0 for gradient in gradients)
    assert any(gradient[1].abs().sum() > 0 for gradient in gradients)


@pytest.mark.slow
@every_method
def test_the_loss_falls_on_a_fixed_batch(name):
    method = make(name).train()
    labels = dict(labels_of())
    labels["saliency"] = (labels["normals"][:, :1] > 0).float()
    optimiser = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses, of_tasks = [], []
    for _ in range(12):
        loss, terms = loss_of(method, observe(method), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        of_tasks.append(terms)
    assert losses[-1] < FALLS_TO[name] * losses[0]
    assert all(of_tasks[-1][task] < of_tasks[0][task] for task in METHODS[name])


@every_method
def test_weights_of_a_file_predict_what_the_saved_method_predicts(name):
    method, other = make(name, seed=1), make(name, seed=2)
    size = (48, 80)
    before = other.predict(observe(other), size).reliability
    load_state_bytes(other, state_to_bytes(method))
    with torch.no_grad():
        wanted, found = (each.predict(observe(each), size) for each in (method, other))
    for task in METHODS[name]:
        assert torch.equal(found.labels[task], wanted.labels[task])
        assert torch.equal(found.reliability[task], wanted.reliability[task])
    assert any(not torch.equal(before[task], wanted.reliability[task]) for task in METHODS[name])


@every_method
def test_equal_seeds_give_equal_weights_and_losses_and_others_do_not(name):
    states = [state_to_bytes(make(name, seed=seed)) for seed in (3, 3, 4)]
    assert states[0] == states[1] != states[2]
    method = make(name).eval()
    losses = [loss_of(method, observe(method), labels_of(), seed=5)[0] for _ in range(2)]
    assert torch.equal(*losses)


@every_method
def test_features_in_half_precision_train_weights_in_single_precision(name):
    method = make(name)
    pyramid = observe(method)
    maps = tuple(tuple(each.detach().bfloat16() for each in level) for level in pyramid.maps)
    loss, _ = loss_of(method, FeaturePyramid(maps, pyramid.images), labels_of())
    loss.backward()
    trained = [value.grad for value in method.parameters() if value.grad is not None]
    assert all(gradient.dtype == torch.float32 for gradient in trained)
    assert any(gradient.any() for gradient in trained)


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        (name, subset)
        for name, tasks in METHODS.items()
        for subset in dict.fromkeys([*((task,) for task in tasks), tasks[-2:], tasks[:3]])
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_any_subset_of_its_tasks_makes_a_method_of_just_those(name, tasks):
    method = make(name, tasks)
    pyramid = observe(method)
    loss, terms = loss_of(method, pyramid, {task: labels_of()[task] for task in tasks})
    assert set(terms) == set(tasks)
    loss.backward()
    expect_gradients(name, method)
    assert set(method.predict(pyramid, SIZE).labels) == set(tasks)
