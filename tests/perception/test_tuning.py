"""A U-Net that learns with the method: what trains, what is saved, what stays frozen."""

from __future__ import annotations

import copy

import pytest
import torch

from perception.build import make_method
from perception.diffusion.backbone import load_backbone
from perception.diffusion.tuning import TunedUnet, tuned_copy
from perception.methods.protocol import evaluating
from perception.seeding import sample_generator
from perception.state_file import keys_digest, load_state_bytes, state_to_bytes
from schemas.config_file import parse_config
from schemas.errors import ConfigError
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone, tiny_diffusion_folder
from trainers.ema import ema_update_
from trainers.learner import copy_weights_, make_learner, parameter_groups

pytestmark = pytest.mark.slow

TUNINGS = ["lora", "full"]
SIZE = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)


def make_tuned(tuning, *, seed=0, **method):
    tree = {
        "run": {"url": "memory://run", "seed": seed},
        "method": {"backbone_tuning": tuning, "lora_rank": 2, **method},
        "training": {"warm_up": {"steps": 1}, "self_improve": {"steps": 1}},
    }
    return make_method(parse_config(tree, origin="test"), tiny_backbone())


def make_images(count=2):
    return torch.rand(count, 3, *SIZE, generator=sample_generator(0)) * 2 - 1


def observe(method, images=None):
    images = make_images() if images is None else images
    generators = [sample_generator(seed) for seed in range(len(images))]
    return method.observe(tiny_backbone(), images, generators=generators)


def predict(method):
    with evaluating(method):
        return method.predict(observe(method), SIZE).labels["normals"]


def make_labels(count=2):
    normals = torch.randn(count, 3, *SIZE, generator=sample_generator(1))
    return {"normals": torch.nn.functional.normalize(normals, dim=1)}


def backward(method):
    method.train().requires_grad_()
    labels = make_labels()
    loss, _ = method(observe(method), labels, None, sample_generator(2))
    loss.backward()


def shift_unet(method, seed=3):
    """Change the trained tensors of the U-Net."""
    generator = sample_generator(seed)
    with torch.no_grad():
        for parameter in method.tuned_unet.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_at_the_start_features_are_exactly_the_frozen_ones(tuning):
    tuned, frozen = make_tuned(tuning), make_tuned("frozen")
    for mine, theirs in zip(observe(tuned).maps, observe(frozen).maps, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(mine, theirs, strict=True))
    assert not tuned.shares_features
    assert frozen.shares_features
    assert frozen.tuned_unet is None


@pytest.mark.parametrize("tuning", TUNINGS)
def test_gradients_reach_every_trained_tensor_and_none_of_the_backbone(tuning):
    method = make_tuned(tuning)
    backward(method)
    found = dict(method.tuned_unet.trained.items())
    if tuning == "lora":
        # The other factor is zero at the start, so only this one has a gradient in the first step.
        assert all("lora_" in name for name in found)
        found = {name: each for name, each in found.items() if "/lora_B/" in name}
    assert len(found) > 10
    assert all(each.grad.abs().sum() > 0 for each in found.values())
    backbone = tiny_backbone()
    for each in (*backbone.unet.parameters(), *backbone.vae.parameters()):
        assert each.grad is None
        assert not each.requires_grad
    assert all(
        each.grad is None for each in method.tuned_unet.frozen_tensors() if each.requires_grad
    )


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_fresh_method_that_loads_the_state_predicts_the_same(tuning):
    method = make_tuned(tuning)
    shift_unet(method)
    fresh = make_tuned(tuning, seed=1)
    assert keys_digest(fresh) == keys_digest(method)
    assert not torch.equal(predict(fresh), predict(method))
    load_state_bytes(fresh, state_to_bytes(method))
    assert torch.equal(predict(fresh), predict(method))


@pytest.mark.parametrize("tuning", TUNINGS)
def test_trained_tensors_change_the_features_and_only_this_methods(tuning):
    method, other = make_tuned(tuning), make_tuned(tuning)
    before = observe(method)
    shift_unet(method)
    assert not torch.equal(observe(method).maps[0][0], before.maps[0][0])
    assert torch.equal(observe(other).maps[0][0], before.maps[0][0])
    assert torch.equal(observe(make_tuned("frozen")).maps[0][0], before.maps[0][0])


@pytest.mark.parametrize(
    ("host", "task"),
    [("idisc", "depth"), ("vpd", "depth"), ("invpt", "normals"), ("taskprompter", "normals")],
)
def test_every_host_reads_the_unet_that_learns(host, task):
    method = make_tuned("lora", name=host, tasks=(task,), width_ratio=0.05)
    before = observe(method).maps
    shift_unet(method)
    pyramid = observe(method)
    assert not torch.equal(pyramid.maps[1][-1], before[1][-1])
    sum(each.square().mean() for level in pyramid.maps for each in level).backward()
    assert all(each.grad is not None for each in method.tuned_unet.parameters())


def test_published_bytes_of_lora_hold_no_weight_of_the_base():
    method, frozen = make_tuned("lora"), make_tuned("frozen")
    names = set(method.state_dict()) - set(frozen.state_dict())
    assert names
    assert all(".trained." in name and "lora_" in name for name in names)
    assert set(frozen.state_dict()) <= set(method.state_dict())
    lora = sum(each.nbytes for each in method.tuned_unet.parameters())
    added = len(state_to_bytes(method)) - len(state_to_bytes(frozen))
    assert lora < added < lora + 400 * len(names), "tensors and their names"
    ranks = {each.shape[0] for name, each in method.tuned_unet.trained.items() if "lora_A" in name}
    assert ranks == {2}


def test_full_tuning_holds_every_layer_before_the_last_map():
    method = make_tuned("full")
    wanted = {
        name.replace(".", "/")
        for name, _ in tiny_backbone().unet.named_parameters()
        if not name.startswith(("conv_norm_out", "conv_out"))
    }
    assert set(method.tuned_unet.trained) == wanted


def test_copies_share_the_frozen_base_and_nothing_that_trains():
    method = make_tuned("lora")
    made = copy.deepcopy(method)
    mine, theirs = method.tuned_unet, made.tuned_unet
    base = {id(each) for each in tiny_backbone().unet.parameters()}
    for each in (mine, theirs):
        assert {id(tensor) for tensor in each.frozen_tensors()} == base
    assert not {id(each) for each in mine.parameters()} & {id(each) for each in theirs.parameters()}
    shift_unet(made)
    assert not torch.equal(predict(made), predict(method)), "its pass reads its own tensors"
    copy_weights_(made, method)
    assert torch.equal(predict(made), predict(method))


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_stage_trains_the_unet_slower_and_the_average_follows(tuning):
    method = make_tuned(tuning, backbone_lr_factor=0.25)
    learner = make_learner(method)
    assert all(not each.requires_grad for each in learner.creation.parameters())
    groups = parameter_groups(learner.exploitation)
    assert [group["lr_factor"] for group in groups] == [1.0, 0.25]
    in_groups = [id(each) for group in groups for each in group["params"]]
    assert in_groups == [id(each) for each in learner.exploitation.parameters()]
    start = predict(learner.creation)
    shift_unet(learner.exploitation)
    ema_update_(learner.creation, learner.exploitation, decay=0.5)
    assert not torch.equal(predict(learner.creation), start)
    ema_update_(learner.creation, learner.exploitation, decay=0.0)
    names = learner.creation.state_dict()
    for name, tensor in learner.exploitation.tuned_unet.state_dict().items():
        torch.testing.assert_close(names[f"tuned_unet.{name}"], tensor)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_with_a_half_precision_backbone_the_trained_tensors_stay_float32(tuning):
    backbone = load_backbone(tiny_diffusion_folder(), dtype=torch.bfloat16)
    method = make_tuned("frozen")
    method.learn_unet(tuned_copy(backbone, tuning=tuning, lora_rank=2))
    assert {each.dtype for each in method.tuned_unet.parameters()} == {torch.float32}
    pyramid = method.observe(backbone, make_images(), generators=sample_generator(0))
    exact = observe(make_tuned("frozen"), make_images())
    assert pyramid.maps[3][0].shape == exact.maps[3][0].shape
    sum(each.float().square().mean() for level in pyramid.maps for each in level).backward()
    assert any(each.grad is not None and each.grad.any() for each in method.tuned_unet.parameters())


def test_float16_and_networks_without_attention_are_refused():
    half = load_backbone(tiny_diffusion_folder(), dtype=torch.float16)
    with pytest.raises(ConfigError, match=r"set model\.dtype to bfloat16"):
        tuned_copy(half, tuning="full")
    plain = copy.copy(tiny_backbone())
    object.__setattr__(plain, "unet", torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3)))
    with pytest.raises(ConfigError, match="use backbone_tuning full"):
        tuned_copy(plain, tuning="lora")


def test_moving_the_method_moves_what_the_pass_reads():
    tuned = TunedUnet(
        copy.deepcopy(tiny_backbone().unet).requires_grad_(), dtype=torch.float32, lr_factor=1.0
    )
    tuned.to("cpu", torch.float64)
    inside = dict(tuned.unet.named_parameters())
    assert all(inside[name.replace("/", ".")] is each for name, each in tuned.trained.items())
