"""The samplers on data whose perfect network is known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from perception.diffusion.samplers import ddim_sample, ddim_step, dpm_solver_sample
from perception.diffusion.schedule import NoiseSchedule, halfway_timesteps

SCHEDULE = NoiseSchedule.from_config(
    {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "epsilon",
    }
)
MEAN, STD = 0.7, 0.4


def predict_noise_of_gaussian_data(latents, timestep):
    """The optimal noise prediction E[noise | z_t] for z_0 ~ N(MEAN, STD^2)."""
    alpha_bar = float(SCHEDULE.alpha_bar[timestep])
    total = alpha_bar * STD**2 + 1 - alpha_bar
    return math.sqrt(1 - alpha_bar) / total * (latents - math.sqrt(alpha_bar) * MEAN)


def solve_flow_of_gaussian_data(latents, alpha_bar, alpha_bar_next):
    """The probability flow keeps each path's standard score: z is linear in it at every level."""
    total = alpha_bar * STD**2 + 1 - alpha_bar
    total_next = alpha_bar_next * STD**2 + 1 - alpha_bar_next
    score = (latents - math.sqrt(alpha_bar) * MEAN) / math.sqrt(total)
    return math.sqrt(alpha_bar_next) * MEAN + math.sqrt(total_next) * score


def largest_error(sample, num_steps, start=600, spacing="trailing"):
    steps = SCHEDULE.timesteps(start=start, num_steps=num_steps, spacing=spacing)
    noisy = torch.linspace(-2.5, 2.5, 64, dtype=torch.float64).reshape(1, 1, 8, 8)
    found = sample(
        noisy, timesteps=steps, schedule=SCHEDULE, predict=predict_noise_of_gaussian_data
    )
    exact = solve_flow_of_gaussian_data(
        noisy, float(SCHEDULE.alpha_bar[steps[0]]), SCHEDULE.final_alpha_bar
    )
    return (found - exact).abs().max().item()


@pytest.mark.parametrize("start", [300, 600, 1000])
def test_ddim_approaches_the_exact_flow_of_gaussian_data_at_first_order(start):
    errors = [largest_error(ddim_sample, n, start=start) for n in (10, 20, 40, 80)]
    assert errors[-1] < 0.05
    for coarse, fine in pairwise(errors):
        assert 1.6 < coarse / fine < 2.6


def test_dpm_solver_lands_where_ddim_lands_with_far_fewer_steps():
    # Both solve the same equation: with many steps both errors vanish.
    assert largest_error(ddim_sample, 500) < 0.01
    assert largest_error(dpm_solver_sample, 500, spacing="log_snr") < 0.01
    for num_steps in (6, 10, 20):
        few = largest_error(dpm_solver_sample, num_steps, spacing="log_snr")
        assert few < largest_error(ddim_sample, 10 * num_steps)


@pytest.mark.parametrize("sample", [ddim_sample, dpm_solver_sample])
def test_one_step_of_a_perfect_network_for_one_image_finds_the_image(sample):
    image, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    t = 500
    noisy = SCHEDULE.add_noise(image, noise, t)
    found = sample(noisy, timesteps=[t], schedule=SCHEDULE, predict=lambda _z, _t: noise)
    torch.testing.assert_close(found, SCHEDULE.add_noise(image, noise, 0), rtol=1e-4, atol=1e-4)


def test_ancestral_steps_keep_the_distribution_of_gaussian_data():
    generator = torch.Generator().manual_seed(0)
    shape = (4096, 1, 2, 2)
    steps = halfway_timesteps(start=600, num_steps=150, spacing="trailing")
    alpha_bar = float(SCHEDULE.alpha_bar[steps[0]])
    spread = math.sqrt(alpha_bar * STD**2 + 1 - alpha_bar)
    noisy = math.sqrt(alpha_bar) * MEAN + spread * torch.randn(shape, generator=generator)
    found = ddim_sample(
        noisy,
        timesteps=steps,
        schedule=SCHEDULE,
        predict=predict_noise_of_gaussian_data,
        eta=1.0,
        make_noise=lambda: torch.randn(shape, generator=generator),
    )
    assert found.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert found.std().item() == pytest.approx(STD, rel=0.05)


def test_a_step_with_fresh_noise_wants_the_noise():
    x0 = epsilon = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="wanted noise"):
        ddim_step(x0, epsilon, alpha_bar=0.5, alpha_bar_next=0.9, eta=0.5)


@pytest.mark.parametrize("sample", [ddim_sample, dpm_solver_sample])
def test_the_network_is_called_at_exactly_the_given_timesteps(sample):
    told = []

    def predict(latents, timestep):
        told.append(timestep)
        return predict_noise_of_gaussian_data(latents, timestep)

    steps = halfway_timesteps(start=600, num_steps=50)
    sample(torch.zeros(1, 4, 2, 2), timesteps=steps, schedule=SCHEDULE, predict=predict)
    assert tuple(told) == steps
