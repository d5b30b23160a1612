"""The cosine schedule over continuous time, and DDIM between its times."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from perception.diffusion.cosine_time import (
    denoise_step,
    log_snr,
    sampling_times,
    signal_and_noise,
)

TIMES = torch.linspace(0.002, 1, 500)
FULL = math.log(1e5)


def angle(times: torch.Tensor) -> torch.Tensor:
    return (times.double() + 0.0002) / 1.00025 * math.pi / 2


def factors(time: float) -> tuple[float, float]:
    signal, noise = signal_and_noise(log_snr(torch.tensor(time)))
    return signal.item(), noise.item()


def test_signal_and_noise_are_cosine_and_sine() -> None:
    signal, noise = signal_and_noise(log_snr(TIMES))
    torch.testing.assert_close(signal, angle(TIMES).cos().float(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(noise, angle(TIMES).sin().float(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(log_snr(TIMES), (-2 * angle(TIMES).tan().log()).float())


def test_signal_and_noise_keep_the_variance() -> None:
    signal, noise = signal_and_noise(log_snr(torch.linspace(0, 1, 1001)))
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(1001))


def test_the_log_snr_falls_and_is_constant_at_the_start() -> None:
    assert (log_snr(TIMES).diff() < 0).all()
    start = log_snr(torch.linspace(0, 0.0018, 10))
    torch.testing.assert_close(start, torch.full((10,), FULL))
    assert factors(0.0)[1] == pytest.approx(0.0031623, rel=1e-4)


def test_the_log_snr_is_odd_about_the_middle() -> None:
    times = torch.linspace(0.01, 0.98, 98, dtype=torch.float64)
    torch.testing.assert_close(log_snr(times), -log_snr(0.99985 - times), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("time", "signal", "noise"),
    [
        *((0.1, 0.98765, 0.15671), (0.2, 0.95098, 0.30924), (1 / 3, 0.86593, 0.50016)),
        *((0.5, 0.70702, 0.70719), (2 / 3, 0.49995, 0.86605), (0.8, 0.30902, 0.95106)),
        *((0.999, 0.00165, 1.0), (1.0, 0.00008, 1.0)),
    ],
)
def test_the_schedule_has_the_published_values(time, signal, noise) -> None:
    assert factors(time) == pytest.approx((signal, noise), abs=1e-5)


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (1, [(1, 0)]),
        (2, [(1, 0), (1 / 2, 0)]),
        (3, [(1, 1 / 3), (2 / 3, 0), (1 / 3, 0)]),
        (5, [(1, 0.6), (0.8, 0.4), (0.6, 0.2), (0.4, 0), (0.2, 0)]),
    ],
)
def test_steps_run_one_ahead(steps, wanted) -> None:
    found = sampling_times(steps)
    assert torch.tensor(found).flatten().tolist() == pytest.approx(
        torch.tensor(wanted).flatten().tolist(), abs=1e-6
    )
    assert sum(after == 0 for _, after in found) == min(steps, 2)
    even = sampling_times(steps, 0)
    assert sum(after == 0 for _, after in even) == 1
    assert all(pytest.approx(after) == time for (_, after), (time, _) in pairwise(even))


@pytest.mark.parametrize(("time", "after"), [(1.0, 1 / 3), (0.7, 0.2), (0.4, 0.0)])
def test_a_step_with_the_true_labels_keeps_the_marginal(time: float, after: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 5, 5, generator=generator).unbind()
    signal, loudness = factors(time)
    found = denoise_step(signal * clean + loudness * noise, clean, time, after)
    signal, loudness = factors(after)
    torch.testing.assert_close(found, signal * clean + loudness * noise, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("steps", "noises", "signals"),
    [
        (2, (1, 0.0032), (0, 1)),
        (3, (1, 0.5002, 0.0018), (0, 0.866, 1.001)),
        (5, (1, 0.809, 0.5, 0.191, 0.001), None),
    ],
)
def test_a_constant_prediction_leaves_the_shares_of_the_closed_form(steps, noises, signals) -> None:
    # The first entry follows the noise, the second the prediction: the steps are linear in both.
    state = torch.tensor([1.0, 0.0])
    held = [state]
    for time, after in sampling_times(steps)[:-1]:
        state = denoise_step(state, torch.tensor([0.0, 1.0]), time, after)
        held.append(state)
    found = torch.stack(held)
    assert found[:, 0].tolist() == pytest.approx(list(noises), abs=6e-4)
    if signals is not None:
        assert found[:, 1].tolist() == pytest.approx(list(signals), abs=2e-3)
