"""One optimisation step on a tiny frozen backbone."""

import copy

import pytest
import torch

from perception.build import make_method
from perception.diffusion.moments import MomentsCache
from perception.methods.protocol import supervised_loss
from schemas.errors import NotFiniteError
from sources.batches import collate
from tests.kit.small_stage import make_config, make_sample, tensors_of
from tests.kit.tiny_models import tiny_backbone
from trainers.learner import make_learner
from trainers.ranks import SingleRank
from trainers.step import step_generator, train_step


@pytest.fixture
def learner(tmp_path):
    return make_learner(make_method(make_config(tmp_path), tiny_backbone()))


def make_batch(*, is_synthetic=(False, False, False)):
    samples = [
        make_sample(f"s{i}", seed=i, is_synthetic=synthetic)
        for i, synthetic in enumerate(is_synthetic)
    ]
    return collate(samples, ("normals",), versions=[0 if s else -1 for s in is_synthetic])


def step(learner, batch, *, seed=0, clip_grad_norm=None):
    return train_step(
        learner,
        batch,
        backbone=tiny_backbone(),
        moments=MomentsCache(),
        ranks=SingleRank(),
        learning_rate=1e-3,
        generator=step_generator(seed, "warm_up", learner.step, 0),
        clip_grad_norm=clip_grad_norm,
    )


def test_a_step_changes_the_exploitation_weights_alone(learner):
    before = {name: tensor.clone() for name, tensor in tensors_of(learner).items()}
    step(learner, make_batch())
    after = tensors_of(learner)
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed
    assert all(name.startswith("exploitation.") for name in changed)


def test_the_optimiser_holds_no_creation_weight_and_none_wants_a_gradient(learner):
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in learner.exploitation.parameters()}
    assert not held & {id(p) for p in learner.creation.parameters()}
    assert not any(p.requires_grad for p in learner.creation.parameters())


def test_no_gradient_reaches_the_backbone(learner):
    step(learner, make_batch())
    backbone = tiny_backbone()
    frozen = [*backbone.unet.parameters(), *backbone.vae.parameters()]
    assert all(parameter.grad is None for parameter in frozen)


@pytest.mark.slow
def test_the_loss_falls_on_a_batch_that_comes_again_and_again(learner):
    batch = make_batch()
    losses = [step(learner, batch)["loss"] for _ in range(15)]
    assert losses[-1] < losses[0] - 0.1


def test_eq_7_without_synthetic_samples_is_the_supervised_loss(learner):
    batch = make_batch()
    generator = step_generator(0, "warm_up", 0, 0)
    pyramid = learner.exploitation.observe(tiny_backbone(), batch.images, generators=generator)
    with torch.no_grad():
        wanted, _ = supervised_loss(
            learner.creation.train(), pyramid, batch.labels, generator=generator
        )
    assert step(learner, batch)["loss"] == pytest.approx(float(wanted), rel=1e-6)


def test_synthetic_samples_count_like_real_ones(learner):
    other = make_learner(copy.deepcopy(learner.creation))
    real = step(learner, make_batch())
    mixed = step(other, make_batch(is_synthetic=(False, True, True)))
    assert mixed == real


def test_a_loss_that_is_not_finite_is_refused_before_the_step(learner):
    batch = make_batch()
    batch.labels["normals"][0, 0, 0, 0] = float("nan")
    before = {name: p.clone() for name, p in learner.exploitation.named_parameters()}
    with pytest.raises(NotFiniteError, match=r"finite loss.*step 0.*learning rate.*s0"):
        step(learner, batch)
    for name, parameter in learner.exploitation.named_parameters():
        assert torch.equal(parameter, before[name])
    assert not learner.optimizer.state


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_a_long_gradient_is_shortened_to_the_limit_and_keeps_its_direction(learner, share):
    other = make_learner(copy.deepcopy(learner.creation))
    batch = make_batch()
    norm = step(other, batch)["grad_norm"]
    free = torch.cat([p.grad.flatten() for p in other.exploitation.parameters()])
    reported = step(learner, batch, clip_grad_norm=share * norm)["grad_norm"]
    found = torch.cat([p.grad.flatten() for p in learner.exploitation.parameters()])
    assert reported == norm, "the norm before clipping is told"
    torch.testing.assert_close(found, min(share, 1.0) * free)
    if share >= 1:
        assert torch.equal(found, free), "a short gradient is left as it is, to the last bit"


def test_draws_of_a_step_depend_on_seed_stage_step_and_rank_alone():
    def draw(*arguments):
        return torch.rand(1, generator=step_generator(*arguments)).item()

    assert draw(0, "warm_up", 3, 1) == draw(0, "warm_up", 3, 1)
    others = {draw(1, "a", 0, 0), draw(0, "a", 0, 0), draw(0, "b", 0, 0), draw(0, "a", 1, 0)}
    assert len(others | {draw(0, "a", 0, 1)}) == 5
