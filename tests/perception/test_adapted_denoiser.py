"""The denoiser that learns on a source's images: what it is before, and what it shows of itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from perception.build import make_creator_network
from perception.diffusion.halfway import synthesize_halfway
from perception.diffusion.latents import encode_moments
from perception.seeding import draw_noise, sample_generator
from perception.state_file import keys_digest, load_state_bytes, state_to_bytes
from schemas.config import RunConfig
from schemas.config_file import parse_config
from schemas.errors import ConfigError
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone

TUNINGS = ("lora", "full")
CAPTIONS = ("a room", "", "a bed")


def make_config(tuning: str, *, seed: int = 0, **creator: object) -> RunConfig:
    stage = {"steps": 1, "batch_size": 1}
    section = stage | {"tuning": tuning, "lora_rank": 2} | creator
    tree = {
        "run": {"url": "unused", "seed": seed},
        "creator": {"num_steps": 2},
        "training": {"warm_up": stage, "self_improve": stage, "creator": section},
    }
    return parse_config(tree, origin="test")


def make_denoiser(tuning="lora", *, backbone=None, **options):
    return make_creator_network(make_config(tuning, **options), backbone or tiny_backbone())


def make_moments(backbone=None):
    images = torch.rand(len(CAPTIONS), 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX, generator=seeded(9))
    return encode_moments(backbone or tiny_backbone(), images * 2 - 1)


def seeded(seed: int) -> torch.Generator:
    return sample_generator(seed)


def loss_of(denoiser, *, captions=CAPTIONS, seed=0, backbone=None):
    backbone = backbone or tiny_backbone()
    loss, parts = denoiser(
        backbone, make_moments(backbone), labels={}, captions=captions, generator=seeded(seed)
    )
    assert parts == {"denoising": pytest.approx(float(loss.detach()))}
    return loss


def train_a_step(denoiser) -> None:
    loss_of(denoiser).backward()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.sub_(parameter.grad.sign(), alpha=0.05)


def synthesize(backbone):
    return synthesize_halfway(
        backbone,
        make_moments(),
        list(CAPTIONS),
        settings=make_config("lora").creator,
        seeds=[1, 2, 3],
    )


@pytest.mark.parametrize("tuning", TUNINGS)
def test_before_the_first_step_it_makes_the_images_of_the_frozen_one_bit_for_bit(tuning):
    frozen = tiny_backbone()
    adapted = make_denoiser(tuning).in_place_of(frozen)
    assert (synthesize(adapted) == synthesize(frozen)).all()


@pytest.mark.parametrize("tuning", TUNINGS)
def test_after_a_step_it_makes_other_images_and_leaves_the_features_alone(tuning):
    frozen, denoiser = tiny_backbone(), make_denoiser(tuning)
    before = synthesize(frozen)
    adapted = denoiser.in_place_of(frozen)
    train_a_step(denoiser)
    assert (synthesize(adapted) != before).any()
    assert (synthesize(frozen) == before).all()
    latents, context = torch.ones(1, 4, 8, 8), frozen.embed_text(["a bed"])
    mine, theirs = (each.run_unet(latents, 0, context) for each in (adapted, frozen))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_its_first_loss_is_equation_5_of_the_frozen_one(prediction_type):
    backbone = tiny_backbone(prediction_type)
    denoiser = make_denoiser(backbone=backbone, text_drop=0.0)
    draws, schedule = seeded(5), backbone.schedule
    clean = make_moments(backbone).draw(generators=draws) * backbone.scaling_factor
    noise = draw_noise(clean.shape, generators=draws)
    timesteps = torch.randint(1000, (len(clean),), generator=draws)
    noisy = schedule.add_noise(clean, noise, timesteps)
    predicted = backbone.predict(noisy, timesteps, backbone.embed_text(CAPTIONS))
    wanted = F.mse_loss(predicted, schedule.training_target(clean, noise, timesteps))
    assert torch.equal(loss_of(denoiser, seed=5, backbone=backbone), wanted)


def test_one_that_always_says_zero_has_the_mean_square_of_the_noise():
    backbone = tiny_backbone("epsilon")
    denoiser = make_denoiser("full", backbone=backbone)
    with torch.no_grad():
        for name, parameter in denoiser.denoiser.trained.items():
            if name.startswith("conv_out"):
                parameter.zero_()
    losses = [float(loss_of(denoiser, seed=seed, backbone=backbone).detach()) for seed in range(8)]
    assert sum(losses) / len(losses) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_only_what_is_trained_travels(tuning):
    denoiser = make_denoiser(tuning)
    names = list(denoiser.state_dict())
    if tuning == "lora":
        assert all("lora_" in name for name in names)
    else:
        assert len(names) == len(list(tiny_backbone().unet.parameters()))
    assert names == [name for name, _ in denoiser.named_parameters()]
    train_a_step(denoiser)
    other = make_denoiser(tuning, seed=1)
    assert keys_digest(other) == keys_digest(denoiser)
    load_state_bytes(other, state_to_bytes(denoiser))
    assert torch.equal(loss_of(other.eval()), loss_of(denoiser.eval()))


def test_equal_seeds_give_equal_weights():
    assert state_to_bytes(make_denoiser(seed=3)) == state_to_bytes(make_denoiser(seed=3))
    assert state_to_bytes(make_denoiser(seed=3)) != state_to_bytes(make_denoiser(seed=4))


def test_texts_are_dropped_in_training_alone():
    denoiser = make_denoiser(text_drop=1.0)
    others = ["a sofa"] * len(CAPTIONS)
    assert torch.equal(loss_of(denoiser), loss_of(denoiser, captions=others))
    denoiser.eval()
    assert not torch.equal(loss_of(denoiser), loss_of(denoiser, captions=others))


def test_the_share_of_dropped_texts_is_the_one_of_the_configuration():
    told = make_denoiser(text_drop=0.25).train().told(["a bed"] * 4000, seeded(0))
    assert told.count("") / 4000 == pytest.approx(0.25, abs=0.02)


def test_held_out_figures_have_the_same_noises_each_time_and_change_nothing():
    denoiser, backbone = make_denoiser(text_drop=0.5), tiny_backbone()
    before = torch.random.get_rng_state()

    def figures(seed):
        return denoiser.held_out(backbone, make_moments(), labels={}, captions=CAPTIONS, seed=seed)

    assert figures(0) == figures(0) != figures(1)
    assert denoiser.training
    assert all(parameter.grad is None for parameter in denoiser.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
    wanted = loss_of(make_denoiser(text_drop=0.0), seed=0)
    assert figures(0) == {"denoising_loss": pytest.approx(float(wanted.detach()))}


def test_without_attention_lora_is_refused_by_the_field_that_asks_for_it():
    plain = copy.copy(tiny_backbone())
    object.__setattr__(plain, "unet", torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3)))
    with pytest.raises(ConfigError, match=r"training\.creator\.tuning full"):
        make_denoiser(backbone=plain)
