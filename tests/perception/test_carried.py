"""The forward process that carries maps, against its definitions and against plain noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from perception.diffusion.samplers import ddim_step
from perception.diffusion.schedule import NoiseSchedule
from perception.pairs.carried import (
    add_noise_and_map,
    added_by_step,
    carried_ddim_step,
    expect_start_from_noise,
    make_share,
    noise_step,
    posterior,
    posterior_mean_from_noise,
    prior_divergence,
    reading_weights,
    share_of_added,
    skip_factors,
    step_divergence,
)
from schemas.errors import ConfigError

FAMILIES = ["bump", "reverting", "beta", "none"]
SHAPE = (3, 4, 2, 2)


def make_schedule(prediction_type="epsilon", **changes):
    return NoiseSchedule.from_config(
        {
            "beta_schedule": "scaled_linear",
            "prediction_type": prediction_type,
            "set_alpha_to_one": True,
            **changes,
        }
    )


def draw(seed, shape=SHAPE):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_share(schedule, seed=0):
    return draw(seed, (schedule.num_train_timesteps,))


def close(found, wanted, tolerance=1e-12):
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_the_recursion_of_shares_has_its_closed_form(seed):
    schedule = make_schedule()
    added = random_share(schedule, seed)
    root = schedule.alpha_bar.sqrt()
    close(share_of_added(schedule, added), root * (added / root).cumsum(0))
    for family in FAMILIES:
        share = make_share(schedule, family, 0.7)
        sums = root * (added_by_step(schedule, share) / root).cumsum(0)
        close(share, sums)


def test_what_a_reverting_step_adds_sums_up_to_one_minus_the_signal():
    schedule = make_schedule()
    betas = schedule.betas
    added = 0.3 * betas / (1 + (1 - betas).sqrt())
    wanted = 0.3 * (1 - schedule.alpha_bar.sqrt())
    close(share_of_added(schedule, added), wanted, 1e-15)
    close(make_share(schedule, "reverting", 0.3), wanted, 0)
    close(added_by_step(schedule, wanted), added, 1e-15)


def test_any_share_comes_back_from_what_the_steps_add():
    schedule = make_schedule()
    share = random_share(schedule)
    close(share_of_added(schedule, added_by_step(schedule, share)), share, 1e-13)


@pytest.mark.parametrize(
    ("family", "last", "largest"),
    [("bump", 0.136, 2.0), ("reverting", 0.932, 13.6), ("beta", 1.859, 27.2)],
)
def test_families_have_the_computed_shares_on_stable_diffusions_schedule(family, last, largest):
    schedule = make_schedule()
    share = make_share(schedule, family, 1.0)
    assert float(share[-1]) == pytest.approx(last, rel=5e-3)
    assert float((share / schedule.alpha_bar.sqrt()).max()) == pytest.approx(largest, rel=5e-3)
    assert (added_by_step(schedule, share) > 0).all()
    # The first step holds next to nothing of the map.
    assert float(share[0]) < 0.06
    assert not make_share(schedule, "none", 1.0).any()


def test_simulated_steps_have_the_mean_and_the_variance_of_the_closed_form():
    schedule = NoiseSchedule.from_config({"trained_betas": torch.linspace(0.01, 0.2, 25).tolist()})
    share = make_share(schedule, "bump", 0.8)
    generator = torch.Generator().manual_seed(0)
    clean, mapped, count = 0.7, -1.3, 100_000
    latents = torch.full((count,), clean, dtype=torch.float64)
    for timestep in range(25):
        noise = torch.randn(count, dtype=torch.float64, generator=generator)
        mapped_all = torch.full_like(latents, mapped)
        latents = noise_step(
            schedule, share, before=latents, mapped=mapped_all, noise=noise, timestep=timestep
        )
    signal = float(schedule.alpha_bar[-1])
    variance = 1 - signal
    mean = math.sqrt(signal) * clean + float(share[-1]) * mapped
    assert abs(float(latents.mean()) - mean) < 3 * math.sqrt(variance / count)
    assert abs(float(latents.var()) - variance) < 3 * variance * math.sqrt(2 / count)


@pytest.mark.parametrize("timestep", [0, 1, 250, 600, 999])
def test_both_forms_of_the_posterior_mean_agree(timestep):
    schedule = make_schedule()
    share = random_share(schedule)
    clean, mapped, epsilon = draw(1), draw(2), draw(3)
    noisy = add_noise_and_map(
        schedule, share, clean=clean, mapped=mapped, noise=epsilon, timestep=timestep
    )
    mean, _ = posterior(schedule, share, noisy=noisy, clean=clean, mapped=mapped, timestep=timestep)
    other = posterior_mean_from_noise(
        schedule, share, noisy=noisy, epsilon=epsilon, mapped=mapped, timestep=timestep
    )
    close(mean, other)


@pytest.mark.parametrize("timestep", [1, 400, 999])
def test_an_ancestral_step_to_the_timestep_below_draws_from_the_posterior(timestep):
    schedule = make_schedule()
    share = make_share(schedule, "bump", 0.5)
    clean, mapped, epsilon = draw(1), draw(2), draw(3)
    noisy = add_noise_and_map(
        schedule, share, clean=clean, mapped=mapped, noise=epsilon, timestep=timestep
    )
    mean, variance = posterior(
        schedule, share, noisy=noisy, clean=clean, mapped=mapped, timestep=timestep
    )

    def step(noise):
        return carried_ddim_step(
            schedule,
            share,
            clean=clean,
            mapped=mapped,
            epsilon=epsilon,
            timesteps=(timestep, timestep - 1),
            eta=1.0,
            noise=noise,
        )

    close(step(torch.zeros_like(clean)), mean)
    close(
        (step(torch.ones_like(clean)) - mean).square(),
        torch.full(SHAPE, variance, dtype=torch.float64),
    )
    with pytest.raises(ValueError, match="wanted noise"):
        step(None)


def run_oracle(schedule, share, latents, *, clean, mapped, timesteps, end=None):
    """Take DDIM steps with the exact clean latents and map."""
    following = [*timesteps[1:], end]
    for timestep, later in zip(timesteps, following, strict=True):
        signal = float(schedule.alpha_bar[timestep])
        epsilon = latents - math.sqrt(signal) * clean - float(share[timestep]) * mapped
        latents = carried_ddim_step(
            schedule,
            share,
            clean=clean,
            mapped=mapped,
            epsilon=epsilon / math.sqrt(1 - signal),
            timesteps=(timestep, later),
        )
    return latents


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("timesteps", [[999], [999, 500, 20], list(range(700, -1, -7)), [0]])
def test_exact_estimates_lead_back_to_the_clean_latents(family, timesteps):
    schedule = make_schedule()
    share = make_share(schedule, family, 0.5)
    clean, mapped = draw(1), draw(2)
    noisy = add_noise_and_map(
        schedule, share, clean=clean, mapped=mapped, noise=draw(3), timestep=timesteps[0]
    )
    found = run_oracle(schedule, share, noisy, clean=clean, mapped=mapped, timesteps=timesteps)
    close(found, clean, 1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_skips_are_one_skip(family):
    schedule = make_schedule()
    share = make_share(schedule, family, 0.5)
    clean, mapped = draw(1), draw(2)
    noisy = add_noise_and_map(
        schedule, share, clean=clean, mapped=mapped, noise=draw(3), timestep=900
    )
    known = {"clean": clean, "mapped": mapped}
    twice = run_oracle(schedule, share, noisy, **known, timesteps=[900, 500], end=100)
    close(twice, run_oracle(schedule, share, noisy, **known, timesteps=[900], end=100))
    (low, low_map, low_variance) = skip_factors(schedule, share, 100, 500)
    (high, high_map, high_variance) = skip_factors(schedule, share, 500, 900)
    found = (high * low, high * low_map + high_map, high**2 * low_variance + high_variance)
    assert found == pytest.approx(skip_factors(schedule, share, 100, 900), abs=1e-12)


def test_a_skip_of_one_step_is_the_step():
    schedule = make_schedule()
    share = make_share(schedule, "bump", 0.5)
    beta = float(schedule.betas[400])
    wanted = (math.sqrt(1 - beta), float(added_by_step(schedule, share)[400]), beta)
    assert skip_factors(schedule, share, 399, 400) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", ["bump", "reverting"])
def test_an_error_of_the_map_enters_the_clean_latents_as_computed(prediction_type, family):
    schedule = make_schedule(prediction_type)
    strength = 0.5
    share = make_share(schedule, family, strength)
    clean, mapped, noise, error = draw(1), draw(2), draw(3), draw(4)
    for timestep in (5, 400, 990):
        noisy = add_noise_and_map(
            schedule, share, clean=clean, mapped=mapped, noise=noise, timestep=timestep
        )
        held = float(share[timestep])
        prediction = schedule.training_target(clean, noise, timestep)
        found = schedule.to_x0(prediction, noisy - held * (mapped + error), timestep) - clean
        root = math.sqrt(float(schedule.alpha_bar[timestep]))
        factor = -held / root if prediction_type == "epsilon" else -root * held
        close(found, factor * error, 1e-11)
        if family == "bump":
            assert (found.abs() <= 2 * strength * error.abs()).all()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_an_exact_prediction_without_the_map_gives_noise_and_clean_latents(prediction_type):
    schedule = make_schedule(prediction_type)
    share = make_share(schedule, "bump", 0.5)
    clean, mapped, noise = draw(1), draw(2), draw(3)
    timestep = torch.tensor([3, 500, 998])
    noisy = add_noise_and_map(
        schedule, share, clean=clean, mapped=mapped, noise=noise, timestep=timestep
    )
    plain = noisy - share[timestep].reshape(-1, 1, 1, 1) * mapped
    prediction = schedule.training_target(clean, noise, timestep)
    close(schedule.to_x0(prediction, plain, timestep), clean, 1e-11)
    close(schedule.to_epsilon(prediction, plain, timestep), noise, 1e-9)
    # With the map left in, both are wrong.
    if prediction_type == "v_prediction":
        assert (schedule.to_epsilon(prediction, noisy, timestep) - noise).abs().max() > 0.1


def test_where_nothing_is_carried_noising_and_posterior_are_the_plain_ones_bit_for_bit():
    schedule = make_schedule()
    share = make_share(schedule, "none", 0.5)
    clean, mapped, noise = (each.float() for each in (draw(1), draw(2), draw(3)))
    for timestep in (0, 300, torch.tensor([7, 600, 999])):
        noisy = add_noise_and_map(
            schedule, share, clean=clean, mapped=mapped, noise=noise, timestep=timestep
        )
        assert torch.equal(noisy, schedule.add_noise(clean, noise, timestep))
    mean = posterior_mean_from_noise(
        schedule, share, noisy=clean, epsilon=noise, mapped=mapped, timestep=300
    )
    assert torch.equal(mean, schedule.posterior_mean_from_noise(clean, noise, 300))
    levels = {"alpha_bar": float(schedule.alpha_bar[300]), "alpha_bar_next": schedule.alpha_bar[40]}
    plain = ddim_step(clean, noise, **{name: float(each) for name, each in levels.items()})
    moved = carried_ddim_step(
        schedule,
        share,
        clean=clean,
        mapped=mapped,
        epsilon=noise,
        timesteps=(300, 40),
    )
    assert torch.equal(moved, plain)


def test_the_prior_term_is_the_divergence_from_a_standard_normal():
    schedule = make_schedule()
    share = make_share(schedule, "reverting", 0.4)
    clean, mapped = draw(1), draw(2)
    mean = schedule.alpha_bar[-1].sqrt() * clean + share[-1] * mapped
    theirs = kl_divergence(
        Normal(mean, (1 - schedule.alpha_bar[-1]).sqrt()), Normal(torch.zeros_like(mean), 1.0)
    )
    ours = prior_divergence(schedule, share, clean=clean, mapped=mapped)
    close(ours, theirs.flatten(1).sum(1), 1e-11)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_step_term_is_the_divergence_of_two_posteriors(is_known):
    schedule = make_schedule()
    share = make_share(schedule, "bump", 0.5)
    mapped, epsilon = draw(2), draw(3)
    found_map = mapped if is_known else draw(5)
    found_noise, timestep = draw(6), 300
    noisy = add_noise_and_map(
        schedule, share, clean=draw(1), mapped=mapped, noise=epsilon, timestep=timestep
    )
    _, variance = posterior(
        schedule, share, noisy=noisy, clean=draw(1), mapped=mapped, timestep=timestep
    )

    def distribution(noise, each):
        mean = posterior_mean_from_noise(
            schedule, share, noisy=noisy, epsilon=noise, mapped=each, timestep=timestep
        )
        return Normal(mean, math.sqrt(variance))

    theirs = kl_divergence(distribution(epsilon, mapped), distribution(found_noise, found_map))
    ours = step_divergence(
        schedule,
        share,
        noise_error=epsilon - found_noise,
        map_error=None if is_known else mapped - found_map,
        timestep=timestep,
    )
    torch.testing.assert_close(ours, theirs.flatten(1).sum(1), rtol=1e-9, atol=0)


def test_a_start_from_noise_is_refused_where_more_of_the_map_is_left_than_of_the_image():
    schedule = make_schedule()
    for family, allowed in (("bump", 0.5), ("beta", 0.036), ("reverting", 0.073)):
        expect_start_from_noise(schedule, [make_share(schedule, family, allowed)])
        with pytest.raises(ConfigError, match="divide the strength by"):
            expect_start_from_noise(schedule, [make_share(schedule, family, 1.1 * allowed)])
    half = make_share(schedule, "bump", 0.5 / math.sqrt(2))
    expect_start_from_noise(schedule, [half, half])
    with pytest.raises(ConfigError):
        expect_start_from_noise(schedule, [half, half, half])


def test_unknown_families_and_negative_strengths_are_refused():
    with pytest.raises(ConfigError, match="wanted one of"):
        make_share(make_schedule(), "square", 0.5)
    for strength in (-0.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="at least 0"):
            make_share(make_schedule(), "bump", strength)


def test_estimates_weigh_as_much_as_the_step_holds_of_the_map():
    schedule = make_schedule()
    timesteps = [900, 600, 100]
    bump = reading_weights(schedule, make_share(schedule, "bump", 0.5), timesteps)
    close(bump, schedule.alpha_bar[timesteps] / schedule.alpha_bar[timesteps].sum())
    none = reading_weights(schedule, make_share(schedule, "none", 0.5), timesteps)
    close(none, torch.full((3,), 1 / 3, dtype=torch.float64))
