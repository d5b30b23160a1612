"""The noise schedule against its definitions and against diffusers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from perception.diffusion.samplers import ddim_step
from perception.diffusion.schedule import NoiseSchedule, halfway_timesteps, make_betas
from schemas.errors import ConfigError

STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
}


def make_schedule(prediction_type="epsilon", **changes):
    return NoiseSchedule.from_config(
        {**STABLE_DIFFUSION, "prediction_type": prediction_type, **changes}
    )


@pytest.mark.parametrize(
    ("index", "alpha_bar"),
    [(0, 0.99915), (50, 0.9516), (100, 0.8942), (300, 0.5905), (600, 0.1608), (999, 0.00466)],
)
def test_stable_diffusion_has_its_published_signal_levels(index, alpha_bar):
    assert float(make_schedule().alpha_bar[index]) == pytest.approx(alpha_bar, rel=1e-3)


@pytest.mark.parametrize("name", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_betas_agree_with_diffusers(name):
    config = {"beta_schedule": name, "beta_start": 0.0005, "beta_end": 0.015}
    theirs = DDIMScheduler(**config).betas.double()
    torch.testing.assert_close(make_betas(config), theirs, rtol=1e-4, atol=1e-7)


def test_betas_are_recovered_from_the_cumulative_product():
    schedule = make_schedule()
    torch.testing.assert_close(schedule.betas, make_betas(STABLE_DIFFUSION), rtol=1e-9, atol=0)


def test_trained_betas_are_taken_as_they_are():
    schedule = NoiseSchedule.from_config({"trained_betas": [0.5, 0.5]})
    assert schedule.alpha_bar.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(("to_one", "final"), [(False, 0.99915), (True, 1.0)])
def test_the_final_level_follows_the_configuration(to_one, final):
    assert make_schedule(set_alpha_to_one=to_one).final_alpha_bar == pytest.approx(final)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta_schedule": "sigmoid"},
        {"prediction_type": "flow_prediction"},
        {"rescale_betas_zero_snr": True},
    ],
)
def test_an_unsupported_scheduler_is_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        NoiseSchedule.from_config({**STABLE_DIFFUSION, **wrong})


def test_closed_form_noising_has_the_mean_and_variance_of_step_by_step_noising():
    schedule = make_schedule()
    generator = torch.Generator().manual_seed(0)
    start, last = 1.5, 300
    stepwise = torch.full((20_000,), start, dtype=torch.float64)
    for beta in schedule.betas[: last + 1].tolist():
        noise = torch.randn(stepwise.shape, generator=generator, dtype=torch.float64)
        stepwise = math.sqrt(1 - beta) * stepwise + math.sqrt(beta) * noise
    zeros, ones = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    mean = schedule.add_noise(start * ones, zeros, last).item()
    std = schedule.add_noise(zeros, ones, last).item()
    # Four standard errors of mean and variance over the simulated paths.
    assert stepwise.mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(20_000))
    assert stepwise.var().item() == pytest.approx(std**2, rel=4 * math.sqrt(2 / 20_000))


def test_closed_form_noising_composes_exactly_with_one_more_step():
    schedule = make_schedule()
    ones, zeros = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for t in (1, 300, 999):
        beta = float(schedule.betas[t])
        signal = math.sqrt(1 - beta) * schedule.add_noise(ones, zeros, t - 1)
        variance = (1 - beta) * schedule.add_noise(zeros, ones, t - 1).square() + beta
        torch.testing.assert_close(signal, schedule.add_noise(ones, zeros, t))
        torch.testing.assert_close(variance, schedule.add_noise(zeros, ones, t).square())


def test_each_sample_may_have_its_own_timestep():
    schedule = make_schedule()
    latents, noise = torch.randn(2, 3, 4, 4, 4).unbind(0)
    together = schedule.add_noise(latents, noise, torch.tensor([0, 500, 999]))
    for i, t in enumerate((0, 500, 999)):
        torch.testing.assert_close(
            together[i : i + 1], schedule.add_noise(latents[i : i + 1], noise[i : i + 1], t)
        )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_converts_to_the_noise_and_the_clean_latents(prediction_type):
    schedule = make_schedule(prediction_type)
    latents, noise = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64).unbind(0)
    for t in (0, 300, torch.tensor([1, 600, 999])):
        noisy = schedule.add_noise(latents, noise, t)
        target = schedule.training_target(latents, noise, t)
        torch.testing.assert_close(schedule.to_epsilon(target, noisy, t), noise)
        torch.testing.assert_close(schedule.to_x0(target, noisy, t), latents)


def posterior_from_x0(schedule, noisy, clean, t):
    """Ho et al. (2020), equation 7: mean and variance of q(z_{t-1} | z_t, z_0)."""
    beta, now, before = (float(x) for x in (schedule.betas[t], *schedule.alpha_bar[[t, t - 1]]))
    mean = math.sqrt(before) * beta / (1 - now) * clean
    mean = mean + math.sqrt(1 - beta) * (1 - before) / (1 - now) * noisy
    return mean, (1 - before) / (1 - now) * beta


@pytest.mark.parametrize("t", [1, 50, 600, 999])
def test_the_reverse_mean_from_noise_equals_the_mean_from_clean_latents(t):
    schedule = make_schedule()
    clean, noise = torch.randn(2, 2, 4, 4, 4, dtype=torch.float64).unbind(0)
    noisy = schedule.add_noise(clean, noise, t)
    expected, _ = posterior_from_x0(schedule, noisy, clean, t)
    torch.testing.assert_close(schedule.posterior_mean_from_noise(noisy, noise, t), expected)


@pytest.mark.parametrize("t", [1, 600, 999])
def test_one_ancestral_ddim_step_is_the_reverse_step(t):
    schedule = make_schedule()
    clean, noise, fresh = torch.randn(3, 2, 4, 4, 4, dtype=torch.float64).unbind(0)
    noisy = schedule.add_noise(clean, noise, t)
    mean, variance = posterior_from_x0(schedule, noisy, clean, t)
    now, before = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[t - 1])
    step = ddim_step(clean, noise, alpha_bar=now, alpha_bar_next=before, eta=1.0, noise=fresh)
    torch.testing.assert_close(step, mean + math.sqrt(variance) * fresh)


def test_the_default_timesteps_are_those_of_the_released_sampler():
    steps = halfway_timesteps(start=600, num_steps=50)
    assert steps[:2] == (589, 577)
    assert steps[-2:] == (13, 1)
    assert len(steps) == 50


def test_trailing_timesteps_begin_at_the_noise_level_of_the_start():
    steps = halfway_timesteps(start=600, num_steps=50, spacing="trailing")
    assert (steps[0], steps[1], steps[-1]) == (600, 588, 12)


def test_log_snr_timesteps_are_even_in_log_snr():
    schedule = make_schedule()
    steps = schedule.timesteps(start=600, num_steps=6, spacing="log_snr")
    assert steps[0] == 600
    levels = schedule.alpha_bar[[*steps, 0]]
    gaps = torch.log(levels / (1 - levels)).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(6), rtol=0.1, atol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "log_snr"])
@pytest.mark.parametrize("start", [1, 7, 600, 999, 1000])
def test_timesteps_fall_strictly_inside_the_schedule(start, spacing):
    for num_steps in {1, start // 3 or 1, start}:
        steps = make_schedule().timesteps(start=start, num_steps=num_steps, spacing=spacing)
        assert len(steps) == num_steps
        assert all(a > b for a, b in pairwise(steps))
        assert 0 <= steps[-1] <= steps[0] <= min(start, 999)


@pytest.mark.parametrize(
    ("start", "num_steps", "spacing", "word"),
    [
        (0, 1, "leading", "T"),
        (1001, 10, "leading", "T"),
        (10, 11, "leading", "num_steps"),
        (10, 0, "leading", "num_steps"),
        (10, 5, "karras", "spacing"),
    ],
)
def test_impossible_timesteps_are_refused_by_name(start, num_steps, spacing, word):
    with pytest.raises(ConfigError, match=word):
        halfway_timesteps(start=start, num_steps=num_steps, spacing=spacing)
