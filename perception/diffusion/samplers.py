"""Deterministic samplers along an explicit list of timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

if TYPE_CHECKING:
    from perception.diffusion.schedule import NoiseSchedule

Predict = Callable[[Tensor, int], Tensor]
"""Maps noisy latents and their timestep to the network's raw prediction."""


def ddim_step(
    x0: Tensor,
    epsilon: Tensor,
    *,
    alpha_bar: float,
    alpha_bar_next: float,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Move from one noise level to a lower one: Song et al. (2021), equations 12 and 16.

    Args:
        x0: Clean latents predicted at the present level.
        epsilon: Noise predicted at the present level.
        alpha_bar: Signal variance of the present level.
        alpha_bar_next: Signal variance of the level to reach.
        eta: 0 for the deterministic sampler, 1 for the ancestral one.
        noise: Fresh standard normal noise; needed when ``eta`` is above 0.

    Returns:
        Latents at the next level.

    Raises:
        ValueError: If ``eta`` is above 0 and there is no noise.
    """
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    sigma = eta * math.sqrt(max(variance, 0.0))
    direction = math.sqrt(max(1 - alpha_bar_next - sigma**2, 0.0))
    moved = math.sqrt(alpha_bar_next) * x0 + direction * epsilon
    if sigma == 0.0:
        return moved
    if noise is None:
        raise ValueError("ddim_step: wanted noise because eta is above 0, found None")
    return moved + sigma * noise


def ddim_sample(
    noisy: Tensor,
    *,
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    predict: Predict,
    eta: float = 0.0,
    make_noise: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Denoise along ``timesteps`` with DDIM.

    Args:
        noisy: Latents at about the level of ``timesteps[0]``, float32 [B, C, h, w].
        eta: See ``ddim_step``.
        make_noise: Draws noise shaped like ``noisy``; needed when ``eta`` is above 0.

    Returns:
        Latents at the schedule's final level, same shape.
    """
    levels = [float(schedule.alpha_bar[t]) for t in timesteps] + [schedule.final_alpha_bar]
    latents = noisy
    for i, timestep in enumerate(timesteps):
        prediction = predict(latents, timestep)
        latents = ddim_step(
            schedule.to_x0(prediction, latents, timestep),
            schedule.to_epsilon(prediction, latents, timestep),
            alpha_bar=levels[i],
            alpha_bar_next=levels[i + 1],
            eta=eta,
            noise=make_noise() if make_noise is not None and eta > 0 else None,
        )
    return latents


def dpm_solver_sample(
    noisy: Tensor, *, timesteps: Sequence[int], schedule: NoiseSchedule, predict: Predict
) -> Tensor:
    """Denoise along ``timesteps`` with DPM-Solver++(2M): Lu et al. (2022), algorithm 2.

    Takes the same arguments as ``ddim_sample`` and arrives at the same final level. Timesteps even
    in log-SNR (``NoiseSchedule.timesteps(spacing="log_snr")``) need far fewer steps than DDIM.

    Returns:
        Latents at the schedule's final level, same shape as ``noisy``.
    """
    solver = DPMSolverMultistepScheduler(
        trained_betas=schedule.betas.tolist(),
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        # The last step spans far more log-SNR than the one before: extrapolating over it hurts.
        euler_at_final=True,
        final_sigmas_type="zero" if schedule.final_alpha_bar == 1.0 else "sigma_min",
    )
    solver.set_timesteps(timesteps=list(timesteps))
    latents = noisy
    for timestep in timesteps:
        x0 = schedule.to_x0(predict(latents, timestep), latents, timestep)
        latents = solver.step(x0, torch.tensor(timestep), latents, return_dict=False)[0]
    return latents
