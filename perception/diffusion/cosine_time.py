"""The cosine schedule over continuous time t: 0 is clean, 1 is noise.

Nichol & Dhariwal (2021), as TaskDiffusion (Yang et al., 2025) uses it: a network is told the
logarithm of the signal-to-noise ratio. With u(t) = (t + 0.0002) / 1.00025 · π/2 signal and noise
are cos u and sin u from t = 0.0018 on; below, the noise stays at 0.0032.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perception.diffusion.samplers import ddim_step

LATEST_TRAINED_TIME = 0.999

_OFFSET = 2e-4
_SPAN = 1.00025
_LEAST_NOISE_TO_SIGNAL = 1e-5
_SMALLEST_NOISE = 1e-8


def log_snr(times: Tensor) -> Tensor:
    """Logarithm of signal variance / noise variance, -2 ln tan u(t) and at most ln 10⁵.

    Args:
        times: In [0, 1], on a device that has float64.

    Returns:
        float32, same shape; falls with t.
    """
    # Near t = 1 float32 would lose the third digit of the tangent.
    angle = (times.double() + _OFFSET) / _SPAN * (math.pi / 2)
    return -angle.tan().square().clamp_min(_LEAST_NOISE_TO_SIGNAL).log().float()


def signal_and_noise(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of signal and noise, √sigmoid(ℓ) and √sigmoid(-ℓ), from log-SNRs ℓ."""
    return torch.sigmoid(levels).sqrt(), torch.sigmoid(-levels).sqrt()


def sampling_times(steps: int, lead: int = 1) -> list[tuple[float, float]]:
    """List each step's time, which the network is told, and the time that its result is noised to.

    Args:
        steps: S ≥ 1.
        lead: Steps that each one runs ahead of even steps, at least 0 (Chen et al., 2023:
            asymmetric time intervals).

    Returns:
        (1 - k/S, max(1 - (k + 1 + lead)/S, 0)) for k from 0 to S - 1.
    """
    return [(1 - k / steps, max(1 - (k + 1 + lead) / steps, 0.0)) for k in range(steps)]


def denoise_step(noised: Tensor, clean: Tensor, time: float, next_time: float) -> Tensor:
    """DDIM from one time to an earlier one.

    Args:
        noised: At ``time``.
        clean: What a network predicts of it at time 0, same shape.

    Returns:
        ``clean`` with the noise that ``noised`` holds beside it, at the level of ``next_time``.
    """
    present, following = (log_snr(torch.tensor(each)) for each in (time, next_time))
    signal, noise = (float(each) for each in signal_and_noise(present))
    return ddim_step(
        clean,
        (noised - signal * clean) / max(noise, _SMALLEST_NOISE),
        alpha_bar=float(present.sigmoid()),
        alpha_bar_next=float(following.sigmoid()),
    )
