"""Sampling of pairs: guidance, what is known, strength, randomness."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from perception.pairs.known import pair_known
from perception.pairs.latents import draw_pair_noise, on_each, rows
from perception.pairs.network import Known, PairLatents
from perception.pairs.sampler import sample_pairs, strength_timesteps
from perception.seeding import sample_generator
from perception.shapes import ShapeError
from schemas.errors import ConfigError
from tests.kit.models.pairs import (
    TASK,
    PointwiseNetwork,
    all_made,
    context_of,
    make_tiny,
    random_known,
    random_pair,
)

SCHEDULE = PointwiseNetwork().schedule
STEPS = strength_timesteps(SCHEDULE, num_steps=5)


class WatchedNetwork(PointwiseNetwork):
    """Remembers the states and timesteps that it is asked at."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def denoise(self, state, timestep, context, known):
        self.seen.append((timestep, state))
        return super().denoise(state, timestep, context, known)


FEW = STEPS[::4]


def generators(count=2, first=0):
    return [sample_generator(first + i) for i in range(count)]


def sample(network=None, known=None, *, timesteps=STEPS, **choices):
    known = known or random_known()
    count = len(known.latents.image)
    choices = {"generators": generators(count), "context": context_of(count)} | choices
    return sample_pairs(network or PointwiseNetwork(), known, timesteps=timesteps, **choices)


def close(left, right, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    torch.testing.assert_close(left.image, right.image, **tolerance)
    torch.testing.assert_close(left.maps[TASK], right.maps[TASK], **tolerance)


def with_masks(value, pair=None):
    pair = pair or random_pair(seed=5)
    return Known(pair, on_each(lambda each: torch.full_like(each[:, :1], value), pair))


def test_at_every_level_what_is_known_is_itself_with_the_initial_noise():
    network, known = WatchedNetwork(), random_known()
    noise = draw_pair_noise(known.latents, generators=generators())
    made = sample(network, known)
    assert [timestep for timestep, _ in network.seen] == list(STEPS)
    for i, (timestep, state) in enumerate(network.seen):
        level = float(SCHEDULE.alpha_bar[timestep])
        for found, clean, n, mask in (
            (state.image, known.latents.image, noise.image, known.masks.image),
            (state.maps[TASK], known.latents.maps[TASK], noise.maps[TASK], known.masks.maps[TASK]),
        ):
            kept = (mask < 0.5).expand_as(found)
            expected = math.sqrt(level) * clean + math.sqrt(1 - level) * n
            # The start comes by another way than the steps, apart by a rounding.
            torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=0 if i else 1e-6)
    for found, clean, mask in (
        (made.image, known.latents.image, known.masks.image),
        (made.maps[TASK], known.latents.maps[TASK], known.masks.maps[TASK]),
    ):
        kept = (mask < 0.5).expand_as(found)
        assert torch.equal(found[kept], clean[kept])
        assert not torch.isclose(found[~kept], clean[~kept]).all()


def test_nothing_known_is_the_plain_sampler_and_everything_known_comes_back():
    pair, network = random_pair(seed=5), PointwiseNetwork()
    noise = draw_pair_noise(pair, generators=generators())
    levels = [float(SCHEDULE.alpha_bar[t]) for t in STEPS] + [SCHEDULE.final_alpha_bar]
    text = context_of().mean(dim=(1, 2))[:, None, None, None]

    def plain(z):
        for level, lower in pairwise(levels):
            noise = network.factor * z + network.shift + text
            x0 = (z - math.sqrt(1 - level) * noise) / math.sqrt(level)
            z = math.sqrt(lower) * x0 + math.sqrt(1 - lower) * noise
        return z

    close(sample(known=with_masks(1.0)), on_each(plain, noise), rtol=1e-4, atol=1e-4)
    close(sample(known=with_masks(0.0)), pair)


def test_full_strength_ignores_latents_where_something_is_made():
    known = random_known()
    other = on_each(lambda z, mask: z + 3 * mask, known.latents, known.masks)
    close(sample(known=known), sample(known=Known(other, known.masks)))
    partial = strength_timesteps(SCHEDULE, num_steps=5, strength=0.6)
    ours, theirs = (
        sample(known=Known(each, known.masks), timesteps=partial) for each in (known.latents, other)
    )
    assert not torch.allclose(ours.image, theirs.image)


@pytest.mark.parametrize(
    ("num_steps", "strength", "count"),
    [(50, 1.0, 50), (50, 0.4, 20), (50, 0.58, 29), (100, 0.29, 29), (10, 0.99, 9), (7, 0.2, 1)],
)
def test_a_strength_runs_its_share_of_the_steps_from_the_level_they_begin_at(
    num_steps, strength, count
):
    steps = strength_timesteps(SCHEDULE, num_steps=num_steps, strength=strength)
    every = strength_timesteps(SCHEDULE, num_steps=num_steps)
    assert len(steps) == count
    assert every[0] == 999
    assert steps == every[-count:]


@pytest.mark.parametrize(("num_steps", "strength"), [(50, 0.0), (50, 1.1), (4, 0.2)])
def test_a_strength_without_a_step_is_refused_with_a_remedy(num_steps, strength):
    with pytest.raises(ConfigError, match=rf"strength.*{strength}; use more"):
        strength_timesteps(SCHEDULE, num_steps=num_steps, strength=strength)


def test_a_start_below_the_end_is_the_known_pair_with_its_noise():
    pair, network = random_pair(seed=5), WatchedNetwork()
    steps = strength_timesteps(SCHEDULE, num_steps=5, strength=0.6)
    sample(network, pair_known(pair), timesteps=steps)
    noise = draw_pair_noise(pair, generators=generators())
    timestep, state = network.seen[0]
    assert timestep == steps[0] == 599
    close(state, on_each(lambda z, n: SCHEDULE.add_noise(z, n, 599), pair, noise))


@pytest.mark.parametrize(
    "make", [PointwiseNetwork, lambda: make_tiny(seed=1)], ids=["pointwise", "unets"]
)
def test_guidance_of_scale_one_is_the_conditional_pass(make):
    network, known = make(), random_known()
    plain = sample(network, known, timesteps=FEW)
    one, barely, much = (
        sample(
            network,
            known,
            timesteps=FEW,
            guidance_scale=scale,
            empty_context=context_of(prompt=""),
        )
        for scale in (1.0, 1 + 1e-7, 5.0)
    )
    close(one, plain)
    close(barely, plain, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(much.image, plain.image)


@torch.no_grad()
def test_guidance_goes_on_from_the_unguided_prediction_in_both_branches():
    network, known, scale = make_tiny(seed=1), random_known(), 3.0
    step = (400,)
    noise = draw_pair_noise(known.latents, generators=generators())
    state = network.start(noise, known, 400)
    guided, unguided = (
        network(state, 400, context_of(prompt=prompt), known) for prompt in ("a bed", "")
    )
    mixed = on_each(lambda u, c: u + scale * (c - u), unguided, guided)
    level, last = float(network.schedule.alpha_bar[400]), network.schedule.final_alpha_bar
    expected = on_each(
        lambda out, z: (
            math.sqrt(last) * network.schedule.to_x0(out, z, 400)
            + math.sqrt(1 - last) * network.schedule.to_epsilon(out, z, 400)
        ),
        mixed,
        state,
    )
    assert level < last
    found = sample(
        network,
        known,
        timesteps=step,
        guidance_scale=scale,
        empty_context=context_of(1, prompt=""),
    )
    for ours, theirs, mask in (
        (found.image, expected.image, known.masks.image),
        (found.maps[TASK], expected.maps[TASK], known.masks.maps[TASK]),
    ):
        made = (mask > 0.5).expand_as(ours)
        torch.testing.assert_close(ours[made], theirs[made], rtol=1e-4, atol=1e-4)


def test_guidance_and_masks_commute():
    """What is known is blended after guidance, so no scale can move it."""
    known, empty = random_known(), context_of(prompt="")
    found = [
        sample(known=known, guidance_scale=scale, empty_context=empty) for scale in (1.0, 2.0, 7.5)
    ]
    kept = (known.masks.image < 0.5).expand_as(known.latents.image)
    assert all(torch.equal(each.image[kept], known.latents.image[kept]) for each in found)
    assert not torch.allclose(found[0].image[~kept], found[1].image[~kept])


def test_guidance_without_the_empty_text_and_a_missing_text_are_refused():
    with pytest.raises(ConfigError, match=r"guidance_scale 2.*give empty_context"):
        sample(guidance_scale=2.0)
    with pytest.raises(ShapeError, match="each of 2 samples, found 1"):
        sample(context=context_of(1))


def test_a_sample_depends_on_its_own_generator_and_not_on_its_batch():
    network = make_tiny(seed=1)
    known = random_known(3)
    together = sample(network, known, timesteps=FEW, generators=generators(3))
    alone = sample(
        network,
        Known(rows(known.latents, slice(1, 2)), rows(known.masks, slice(1, 2))),
        timesteps=FEW,
        generators=generators(1, first=1),
    )
    close(alone, rows(together, slice(1, 2)), rtol=1e-4, atol=1e-4)
    again = sample(network, known, timesteps=FEW, generators=generators(3))
    close(again, together)
    other = sample(network, all_made(known.latents), timesteps=FEW, generators=generators(3, 7))
    assert not torch.allclose(other.image, together.image)


def test_image_and_map_begin_with_noises_of_their_own():
    noise = draw_pair_noise(random_pair(), generators=generators())
    assert isinstance(noise, PairLatents)
    assert not torch.equal(noise.image, noise.maps[TASK])
