"""The network that carries maps in the image's noise: training, sampling, reading off images."""

from __future__ import annotations

import copy
import functools
from itertools import pairwise

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional

from kit.starter.configs import make_unet as make_starter_unet
from perception.diffusion.backbone import load_backbone
from perception.diffusion.samplers import ddim_sample
from perception.pairs.aggregated import (
    AggregatedNetwork,
    aggregated_loss,
    draw_carried,
    output_block,
)
from perception.pairs.carried import carried_ddim_step, make_share
from perception.pairs.network import Known, PairLatents
from perception.seeding import sample_generator
from schemas.errors import ConfigError
from tests.kit.tiny_models import tiny_backbone, tiny_diffusion_folder

SHAPE = (3, 4, 8, 8)
TASKS = ("normals", "depth")
TIMESTEP = torch.tensor([20, 400, 900])


def draw(seed, shape=SHAPE):
    return torch.randn(shape, generator=sample_generator(seed))


@functools.cache
def make_network(family="bump", prediction_type="v_prediction", tasks=TASKS, strength=0.5):
    """A network whose heads differ from each other; shared, so do not change it."""
    network = AggregatedNetwork(
        tiny_backbone(prediction_type), tasks, family=family, strength=strength
    )
    with torch.no_grad():
        for seed, parameter in enumerate(network.map_heads.parameters()):
            parameter.add_(draw(seed, parameter.shape), alpha=0.05)
    return network.eval()


def context(count=3):
    return tiny_backbone().embed_text(["a bed"] * count)


def latents(seed=0):
    return PairLatents(draw(seed), {task: draw(seed + i) for i, task in enumerate(TASKS, 1)})


def masks(image, maps):
    ones = torch.ones(3, 1, 8, 8)
    return PairLatents(image * ones, dict.fromkeys(TASKS, maps * ones))


def everywhere(value=1.0):
    return dict.fromkeys(TASKS, torch.full((3, 1, 8, 8), value))


def loss_of(network, pair=None, *, validity=None, is_carried=None, **options):
    return network.loss(
        latents() if pair is None else pair,
        context(),
        validity=everywhere() if validity is None else validity,
        is_carried=torch.ones(3, dtype=torch.bool) if is_carried is None else is_carried,
        noise=draw(9),
        timestep=TIMESTEP,
        **options,
    )


def noised(network, pair, *, is_carried, validity=None):
    return network.add_noise(
        pair,
        validity=validity or everywhere(),
        is_carried=is_carried,
        noise=draw(9),
        timestep=TIMESTEP,
    )


def sample(network, known, timesteps, noise):
    state = network.start(PairLatents(noise), known, timesteps[0])
    for timestep, later in pairwise([*timesteps, None]):
        estimate = network.denoise(state, timestep, context(), known)
        state = network.move(state, estimate, timestep, later)
    return state


@pytest.mark.parametrize(("width", "wanted"), [(320, 12_164), (32, 1_220)])
def test_a_head_has_the_computed_number_of_parameters(width, wanted):
    with torch.device("meta"):
        unet = (
            make_starter_unet()
            if width == 32
            else UNet2DConditionModel(
                block_out_channels=(320,),
                down_block_types=("DownBlock2D",),
                up_block_types=("UpBlock2D",),
                mid_block_type=None,
                layers_per_block=1,
            )
        )
    assert sum(each.numel() for each in output_block(unet).parameters()) == wanted


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_at_the_start_one_pass_gives_the_backbones_prediction_and_a_copy_a_map(prediction_type):
    backbone = tiny_backbone(prediction_type)
    network = AggregatedNetwork(backbone, TASKS)
    noisy = draw(0)
    with torch.no_grad():
        prediction, maps = network(noisy, TIMESTEP, context())
    assert torch.equal(prediction, backbone.run_unet(noisy, TIMESTEP, context()))
    assert list(maps) == list(TASKS)
    assert all(torch.equal(each, prediction) for each in maps.values())
    heads = sum(each.numel() for each in network.map_heads.parameters())
    trained = sum(each.numel() for each in network.parameters())
    assert trained == heads + sum(each.numel() for each in backbone.unet.parameters())


def test_lora_trains_low_rank_terms_and_the_heads_and_starts_alike():
    backbone = tiny_backbone()
    network = AggregatedNetwork(backbone, TASKS, tuning="lora", lora_rank=2)
    with torch.no_grad():
        prediction, _ = network(draw(0), 300, context())
    assert torch.equal(prediction, backbone.run_unet(draw(0), 300, context()))
    names = dict(network.named_parameters())
    assert all("lora_" in name or "head" in name for name in names)
    loss_of(network)[0].backward()
    assert all(each.grad is not None for each in names.values())
    assert backbone.unet.conv_norm_out is not None


def test_without_a_carried_map_training_is_that_of_plain_noise_bit_for_bit():
    backbone, network = tiny_backbone(), AggregatedNetwork(tiny_backbone(), TASKS, family="none")
    pair, noise = latents(), draw(9)
    is_carried = torch.ones(3, dtype=torch.bool)
    noisy = noised(network, pair, is_carried=is_carried)
    assert torch.equal(noisy, backbone.schedule.add_noise(pair.image, noise, TIMESTEP))
    total, terms = loss_of(network, pair, head_weight=0.0)
    target = backbone.schedule.training_target(pair.image, noise, TIMESTEP)
    plain = functional.mse_loss(backbone.run_unet(noisy, TIMESTEP, context()), target)
    assert torch.equal(total.detach(), plain)
    with_heads, _ = loss_of(network, pair, head_weight=0.1)
    heads = sum(terms[task] for task in TASKS)
    assert float((with_heads - total).detach()) == pytest.approx(0.1 * heads, rel=1e-5)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
@torch.no_grad()
def test_without_a_carried_map_sampling_is_ddim_bit_for_bit(prediction_type):
    network, backbone = make_network("none", prediction_type), tiny_backbone(prediction_type)
    known = Known(latents(), masks(1, 1))
    timesteps = (999, 640, 210, 15)
    plain = ddim_sample(
        draw(5),
        timesteps=timesteps,
        schedule=backbone.schedule,
        predict=lambda noisy, timestep: backbone.run_unet(noisy, timestep, context()),
    )
    assert torch.equal(sample(network, known, timesteps, draw(5)).image, plain)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
@torch.no_grad()
def test_sampling_takes_the_steps_of_latents_that_carry_the_newest_estimates(prediction_type):
    """States hold the image without its maps; the same steps, written with the maps inside."""
    network, known = make_network("bump", prediction_type), Known(latents(), masks(1, 1))
    schedule, timesteps = network.schedule, (999, 640, 210, 15)
    share, noisy = network.share, draw(5)
    for timestep, later in pairwise([*timesteps, None]):
        prediction, maps = network(noisy, timestep, context())
        mapped = maps["normals"] + maps["depth"]
        plain = noisy - float(share[timestep]) * mapped
        noisy = carried_ddim_step(
            schedule,
            share,
            clean=schedule.to_x0(prediction, plain, timestep),
            mapped=mapped,
            epsilon=schedule.to_epsilon(prediction, plain, timestep),
            timesteps=(timestep, later),
        )
    found = sample(network, known, timesteps, draw(5))
    torch.testing.assert_close(found.image, noisy, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_known_maps_are_carried_from_the_start_and_come_back_as_they_are():
    network, pair = make_network("reverting"), latents()
    known = Known(pair, masks(1, 0))
    seen = []
    hook = network.trunk.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    found = sample(network, known, (999, 500), draw(5))
    hook.remove()
    share = make_share(network.schedule, "reverting", 0.5 / 2**0.5)
    wanted = draw(5) + float(share[999]) * (pair.maps["normals"] + pair.maps["depth"])
    torch.testing.assert_close(seen[0], wanted)
    assert all(torch.equal(found.maps[task], pair.maps[task]) for task in TASKS)


@torch.no_grad()
def test_a_start_below_the_end_holds_the_pair_and_one_at_the_end_only_what_is_known():
    network, pair = make_network(), latents()
    low = network.start(PairLatents(draw(5)), Known(pair, masks(1, 1)), 600)
    assert torch.equal(low.image, network.schedule.add_noise(pair.image, draw(5), 600))
    assert low.maps == pair.maps
    hole = torch.zeros(3, 1, 8, 8)
    hole[..., :4] = 1
    known = Known(pair, PairLatents(hole, {"normals": hole, "depth": torch.ones_like(hole)}))
    high = network.start(PairLatents(draw(5)), known, 999)
    assert torch.equal(high.image[..., :4], draw(5)[..., :4])
    kept = network.schedule.add_noise(pair.image, draw(5), 999)
    assert torch.equal(high.image[..., 4:], kept[..., 4:])
    assert not high.maps["depth"].any()
    assert not high.maps["normals"][..., :4].any()
    assert torch.equal(high.maps["normals"][..., 4:], pair.maps["normals"][..., 4:])


def test_a_start_from_noise_is_refused_if_it_cannot_stand_for_maps_that_are_to_be_made():
    network, noise = make_network("reverting"), PairLatents(draw(5))
    with pytest.raises(ConfigError, match="start from known maps"):
        network.start(noise, Known(latents(), masks(1, 1)), 999)
    for image, maps in ((1, 0), (0, 1)):
        network.start(noise, Known(latents(), masks(image, maps)), 999)
    network.start(noise, Known(latents(), masks(1, 1)), 600)


@torch.no_grad()
def test_one_timestep_reads_maps_once_off_plain_noise():
    network, image, noise = make_network(), draw(0), draw(9)
    noisy = network.schedule.add_noise(image, noise, 50)
    _, wanted = network(noisy, 50, context())
    found = network.read_maps(image, noise, [50], context())
    assert all(torch.equal(found[task], wanted[task]) for task in TASKS)


@torch.no_grad()
def test_repeating_the_timestep_reads_again_with_the_last_maps_carried():
    network, image, noise = make_network(), draw(0), draw(9)
    plain = network.schedule.add_noise(image, noise, 300)
    maps = {}
    for _ in range(3):
        held = network.carried(maps, 300) if maps else torch.zeros_like(plain)
        _, maps = network(plain + held, 300, context())
    found = network.read_maps(image, noise, [300] * 3, context())
    for task in TASKS:
        torch.testing.assert_close(found[task], maps[task])
        assert not torch.equal(found[task], network.read_maps(image, noise, [300], context())[task])


@torch.no_grad()
def test_falling_timesteps_read_maps_as_sampling_with_the_image_known_does():
    network, pair, noise = make_network(), latents(), draw(9)
    timesteps = (999, 500, 100)
    known = Known(pair, masks(0, 1))
    state = network.start(PairLatents(noise), known, timesteps[0])
    for timestep, later in pairwise([*timesteps, None]):
        estimate = network.denoise(state, timestep, context(), known)
        # The sampler puts the known image and its noise in place of their estimates.
        estimate.clean.image.copy_(pair.image)
        estimate.noise.image.copy_(noise)
        state = network.move(state, estimate, timestep, later)
    found = network.read_maps(pair.image, noise, timesteps, context())
    for task in TASKS:
        torch.testing.assert_close(found[task], state.maps[task], rtol=1e-4, atol=1e-5)


def gradients(network, loss):
    network = copy.deepcopy(network)
    loss(network).backward()
    heads = dict(network.map_heads.named_parameters())
    return heads, network


def test_without_weight_no_head_has_a_gradient_and_without_the_other_term_every_head_has():
    heads, _ = gradients(make_network(), lambda each: loss_of(each, head_weight=0.0)[0])
    assert all(each.grad is None or not each.grad.any() for each in heads.values())

    def only_heads(network):
        prediction, found = network(draw(0), TIMESTEP, context())
        maps = {task: (found[task], draw(3), everywhere()[task]) for task in TASKS}
        return aggregated_loss(prediction, prediction.detach(), maps)[0]

    heads, network = gradients(make_network(), only_heads)
    assert all(each.grad.abs().sum() > 0 for each in heads.values())
    assert all(not each.grad.any() for each in network.image_head.parameters())


def test_a_dropped_map_leaves_the_noise_but_its_head_still_learns():
    network, pair, other = make_network(), latents(), latents(5)
    changed = PairLatents(pair.image, other.maps)
    is_carried = torch.tensor([True, False, True])
    before, after = (noised(network, each, is_carried=is_carried) for each in (pair, changed))
    plain = network.schedule.add_noise(pair.image, draw(9), TIMESTEP)
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[1], plain[1])
    assert not torch.equal(before[0], after[0])
    only_second = everywhere(0.0)
    for task in TASKS:
        only_second[task] = only_second[task].clone()
        only_second[task][1] = 1
    with torch.no_grad():
        terms = [
            loss_of(network, each, validity=only_second, is_carried=is_carried)[1]
            for each in (pair, changed)
        ]
    assert terms[0]["normals"] > 0
    assert terms[0]["normals"] != terms[1]["normals"]


def test_a_missing_label_is_neither_carried_nor_counted():
    network, pair, other = make_network(), latents(), latents(5)
    changed = PairLatents(pair.image, {**pair.maps, "depth": other.maps["depth"]})
    missing = everywhere() | {"depth": torch.zeros(3, 1, 8, 8)}
    is_carried = torch.ones(3, dtype=torch.bool)
    before, after = (
        noised(network, each, is_carried=is_carried, validity=missing) for each in (pair, changed)
    )
    assert torch.equal(before, after)
    heads, _ = gradients(
        network, lambda each: loss_of(each, changed, validity=missing, head_weight=1.0)[0]
    )
    assert all(not each.grad.any() for name, each in heads.items() if name.startswith("depth"))
    assert all(each.grad.any() for name, each in heads.items() if name.startswith("normals"))


def test_latents_count_by_their_share_of_labelled_pixels():
    wanted, found = torch.zeros(1, 2, 1, 2), torch.tensor([1.0, 3.0]).expand(1, 2, 1, 2)
    weights = torch.tensor([0.25, 0.75]).reshape(1, 1, 1, 2)
    zero = torch.zeros(1, 2, 1, 2)
    total, terms = aggregated_loss(zero, zero, {"depth": (found, wanted, weights)}, head_weight=0.1)
    assert terms["depth"] == pytest.approx(0.25 * 1 + 0.75 * 9)
    assert float(total) == pytest.approx(0.1 * terms["depth"])


def test_a_head_that_gives_the_mean_has_the_variance_as_loss():
    maps = draw(0, (50, 4, 8, 8))
    mean = maps.mean().expand_as(maps)
    zero = torch.zeros_like(maps)
    _, terms = aggregated_loss(zero, zero, {"depth": (mean, maps, torch.ones(50, 1, 8, 8))})
    assert terms["depth"] == pytest.approx(float(maps.var(correction=0)), rel=1e-5)


def test_maps_are_dropped_as_often_as_asked():
    generator = sample_generator(0)
    assert draw_carried(5, drop_maps=0.0, generator=generator).all()
    assert not draw_carried(5, drop_maps=1.0, generator=generator).any()
    share = draw_carried(10_000, drop_maps=0.3, generator=generator).float().mean()
    assert float(share) == pytest.approx(0.7, abs=3 * (0.21 / 10_000) ** 0.5)


def test_several_maps_carry_the_power_of_one():
    one, two = make_network(tasks=("depth",)), make_network()
    torch.testing.assert_close(2 * two.share.square(), one.share.square())


@pytest.mark.slow
def test_with_a_half_precision_backbone_all_that_trains_stays_float32():
    backbone = load_backbone(tiny_diffusion_folder(), dtype=torch.bfloat16)
    network = AggregatedNetwork(backbone, TASKS)
    loss, _ = loss_of(network)
    loss.backward()
    assert {each.dtype for each in network.parameters()} == {torch.float32}
    assert all(each.grad is not None for each in network.map_heads.parameters())
    with torch.no_grad():
        exact, _ = loss_of(AggregatedNetwork(tiny_backbone(), TASKS))
    assert float(loss.detach()) == pytest.approx(float(exact), rel=0.02)


@pytest.mark.parametrize("timestep", [100, 600])
def test_a_linear_network_learns_the_best_coefficient_of_a_gaussian_toy(timestep):
    """Best noise and map are linear in z_t, by the covariance of image, map and noise."""
    schedule = tiny_backbone().schedule
    image_deviation, map_deviation, correlation, count = 1.2, 0.7, 0.6, 200_000
    image = image_deviation * draw(0, (count,)).double()
    rest = (1 - correlation**2) ** 0.5 * draw(1, (count,)).double()
    mapped = map_deviation * (correlation * image / image_deviation + rest)
    noise = draw(2, (count,)).double()
    alpha_bar = float(schedule.alpha_bar[timestep])
    share = float(make_share(schedule, "bump", 0.8)[timestep])
    noisy = alpha_bar**0.5 * image + share * mapped + (1 - alpha_bar) ** 0.5 * noise
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    as_maps = [each.reshape(-1, 1, 1, 1) for each in (noisy, noise, mapped)]
    optimiser = torch.optim.LBFGS([weights], max_iter=20)

    def step():
        optimiser.zero_grad()
        maps = {"depth": (weights[1] * as_maps[0], as_maps[2], torch.ones_like(as_maps[0]))}
        loss, _ = aggregated_loss(weights[0] * as_maps[0], as_maps[1], maps, head_weight=0.1)
        loss.backward()
        return loss

    optimiser.step(step)
    cross = correlation * image_deviation * map_deviation
    variance = (
        alpha_bar * image_deviation**2
        + share**2 * map_deviation**2
        + 2 * share * alpha_bar**0.5 * cross
        + 1 - alpha_bar
    )  # fmt: skip
    best = (1 - alpha_bar) ** 0.5 / variance
    best_map = (share * map_deviation**2 + alpha_bar**0.5 * cross) / variance
    found = weights.detach().tolist()
    assert found == pytest.approx([best, best_map], abs=0.01)


def test_a_copy_trains_apart_and_a_fresh_network_takes_its_state():
    network = make_network()
    made = copy.deepcopy(network)
    fresh = AggregatedNetwork(tiny_backbone(), TASKS)
    fresh.load_state_dict(network.state_dict())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.1)
        wanted, _ = network(draw(0), 300, context())
        assert torch.equal(fresh(draw(0), 300, context())[0], wanted)
        assert not torch.equal(made(draw(0), 300, context())[0], wanted)
