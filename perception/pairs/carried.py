"""Noise that carries maps: the forward process of MT-Diffusion (Chen et al., 2024), in closed form.

Each step adds w'_t E to the noisy latents besides noise, where E are the latents of a map:
z_t = √ᾱ_t z_0 + k_t E + √(1 - ᾱ_t) ε. The *share* k_t follows from the *added* w'_t, and back.
Several maps add up, so all functions take one.

Our copy of the paper lacks its formulas and its weights; they are derived here from its text.
Timesteps are indices from 0. Before the first step ᾱ is 1 and k is 0. Shares and added are float64
[num_train_timesteps] on the CPU; latents [B, ...] keep their dtype.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from perception.diffusion.samplers import ddim_step
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perception.diffusion.schedule import NoiseSchedule, Timestep

CarriedFamily = Literal["bump", "reverting", "beta", "none"]
"""``bump`` k = 2κ √(ᾱ (1 - ᾱ)), small at both ends; ``reverting`` k = c (1 - √ᾱ); ``beta``
w' = c β; ``none`` k = 0, plain noise. κ or c is the strength."""


def make_share(schedule: NoiseSchedule, family: CarriedFamily, strength: float) -> Tensor:
    """Return the share k of a family.

    Raises:
        ConfigError: If the family is unknown, or the strength negative or not finite.
    """
    if family not in get_args(CarriedFamily):
        raise ConfigError(f"carried: wanted one of {get_args(CarriedFamily)}, found {family!r}")
    if not 0 <= strength < math.inf:
        raise ConfigError(f"carried strength: wanted a number of at least 0, found {strength}")
    alpha_bar = schedule.alpha_bar
    if family == "bump":
        return 2 * strength * (alpha_bar * (1 - alpha_bar)).sqrt()
    if family == "reverting":
        return strength * (1 - alpha_bar.sqrt())
    if family == "beta":
        return share_of_added(schedule, strength * schedule.betas)
    return torch.zeros_like(alpha_bar)


def added_by_step(schedule: NoiseSchedule, share: Tensor) -> Tensor:
    """Return what each step adds, w'_t = k_t - √α_t k_{t-1}."""
    return share - (1 - schedule.betas).sqrt() * _before(share, 0.0)


def share_of_added(schedule: NoiseSchedule, added: Tensor) -> Tensor:
    """Return the share, k_t = √α_t k_{t-1} + w'_t."""
    share = 0.0
    shares = []
    for kept, more in zip((1 - schedule.betas).sqrt().tolist(), added.tolist(), strict=True):
        share = kept * share + more
        shares.append(share)
    return torch.tensor(shares, dtype=torch.float64)


def expect_start_from_noise(schedule: NoiseSchedule, shares: Iterable[Tensor]) -> None:
    """Refuse maps that pure noise cannot stand for: √(Σ k_T²) has to be at most √ᾱ_T.

    Pure noise then lacks no more of the maps than it lacks of the image. Known maps need no such
    start: they are added to the noise.

    Args:
        shares: Of each map that is not known.

    Raises:
        ConfigError: If it does not hold.
    """
    found = math.sqrt(sum(float(share[-1]) ** 2 for share in shares))
    most = math.sqrt(float(schedule.alpha_bar[-1]))
    if found > most:
        raise ConfigError(
            f"carried share at the last timestep: wanted at most {most:.4f}, the image's own, to "
            f"start from noise, found {found:.4f}; divide the strength by {found / most:.2f} or "
            "more, use carried bump, or start from known maps"
        )


def times(values: Tensor, timestep: Timestep, latents: Tensor) -> Tensor:
    """Multiply latents [B, ...] by the values at one timestep, or at each sample's own [B]."""
    factor = values[torch.as_tensor(timestep, device=values.device)].to(latents)
    return (
        factor.reshape(-1, *[1] * (latents.ndim - 1)) * latents if factor.ndim else factor * latents
    )


def add_noise_and_map(
    schedule: NoiseSchedule,
    share: Tensor,
    *,
    clean: Tensor,
    mapped: Tensor,
    noise: Tensor,
    timestep: Timestep,
) -> Tensor:
    """Jump from clean latents to a timestep: Eq. 4, √ᾱ z_0 + k E + √(1 - ᾱ) ε."""
    return schedule.add_noise(clean, noise, timestep) + times(share, timestep, mapped)


def noise_step(
    schedule: NoiseSchedule,
    share: Tensor,
    *,
    before: Tensor,
    mapped: Tensor,
    noise: Tensor,
    timestep: int,
) -> Tensor:
    """Take one noising step: Eq. 3, z_t = √α_t z_{t-1} + w'_t E + √β_t ε."""
    beta = float(schedule.betas[timestep])
    added = float(added_by_step(schedule, share)[timestep])
    return math.sqrt(1 - beta) * before + added * mapped + math.sqrt(beta) * noise


def posterior(
    schedule: NoiseSchedule,
    share: Tensor,
    *,
    noisy: Tensor,
    clean: Tensor,
    mapped: Tensor,
    timestep: int,
) -> tuple[Tensor, float]:
    """Return mean and variance of q(z_{t-1} | z_t, z_0, E): Eq. 5.

    Mean (√α (1 - ᾱ_{t-1}) (z_t - w' E) + β (√ᾱ_{t-1} z_0 + k_{t-1} E)) / (1 - ᾱ), variance
    β (1 - ᾱ_{t-1}) / (1 - ᾱ).
    """
    beta = float(schedule.betas[timestep])
    rest = 1 - float(schedule.alpha_bar[timestep])
    signal_before = float(_before(schedule.alpha_bar, 1.0)[timestep])
    added = float(added_by_step(schedule, share)[timestep])
    held = math.sqrt(signal_before) * clean + float(_before(share, 0.0)[timestep]) * mapped
    kept = math.sqrt(1 - beta) * (1 - signal_before) * (noisy - added * mapped)
    return (kept + beta * held) / rest, beta * (1 - signal_before) / rest


def posterior_mean_from_noise(
    schedule: NoiseSchedule,
    share: Tensor,
    *,
    noisy: Tensor,
    epsilon: Tensor,
    mapped: Tensor,
    timestep: int,
) -> Tensor:
    """Return the mean of Eq. 5 from the noise, (z_t - w' E - β / √(1 - ᾱ) ε) / √α."""
    added = float(added_by_step(schedule, share)[timestep])
    return schedule.posterior_mean_from_noise(noisy - added * mapped, epsilon, timestep)


def skip_factors(
    schedule: NoiseSchedule, share: Tensor, earlier: int, later: int
) -> tuple[float, float, float]:
    """Return a, b, v of z_t | z_s ~ N(a z_s + b E, v I) over any number of noising steps, s < t."""
    ratio = float(schedule.alpha_bar[later] / schedule.alpha_bar[earlier])
    signal = math.sqrt(ratio)
    return signal, float(share[later]) - signal * float(share[earlier]), 1 - ratio


def carried_ddim_step(
    schedule: NoiseSchedule,
    share: Tensor,
    *,
    clean: Tensor,
    mapped: Tensor,
    epsilon: Tensor,
    timesteps: tuple[int, int | None],
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Move to a lower timestep: DDIM without the map, then as much of the map as is held there.

    With ``eta`` 1 and the timestep just below, it draws from Eq. 5.

    Args:
        clean: Clean latents predicted at the first timestep.
        mapped: Latents of the map, predicted or known.
        epsilon: Predicted noise.
        timesteps: From and to; None: the schedule's final level, where nothing of the map is left.
        eta: 0 for the deterministic sampler, 1 for the ancestral one.
        noise: Standard normal; needed when ``eta`` is above 0.

    Raises:
        ValueError: If ``eta`` is above 0 and there is no noise.
    """
    present, following = timesteps
    alpha_bar = schedule.alpha_bar
    moved = ddim_step(
        clean,
        epsilon,
        alpha_bar=float(alpha_bar[present]),
        alpha_bar_next=schedule.final_alpha_bar
        if following is None
        else float(alpha_bar[following]),
        eta=eta,
        noise=noise,
    )
    return moved if following is None else moved + float(share[following]) * mapped


def prior_divergence(
    schedule: NoiseSchedule, share: Tensor, *, clean: Tensor, mapped: Tensor
) -> Tensor:
    """Return KL(q(z_T | z_0, E) ‖ N(0, I)) of each sample, [B]: first term of Eq. 2.

    ½ (d (σ² - 1 - ln σ²) + ‖√ᾱ_T z_0 + k_T E‖²), σ² = 1 - ᾱ_T, d elements a sample.
    """
    signal = float(schedule.alpha_bar[-1])
    mean = (math.sqrt(signal) * clean + float(share[-1]) * mapped).flatten(1)
    spread = -signal - math.log1p(-signal)
    return (mean.shape[1] * spread + mean.square().sum(dim=1)) / 2


def step_divergence(
    schedule: NoiseSchedule,
    share: Tensor,
    *,
    noise_error: Tensor,
    map_error: Tensor | None,
    timestep: int,
) -> Tensor:
    """Return the KL of Eq. 5 and the same with estimates, of each sample, [B]: sum of Eq. 2.

    ‖β / √(1 - ᾱ) (ε - ε̂) + w' (E - Ê)‖² / (2 β̃ α).

    Args:
        noise_error: ε - ε̂.
        map_error: E - Ê; None where the map is known.
        timestep: At least 1; the term of 0 is a likelihood.
    """
    beta = float(schedule.betas[timestep])
    rest = 1 - float(schedule.alpha_bar[timestep])
    variance = beta * (1 - float(schedule.alpha_bar[timestep - 1])) / rest
    error = beta / math.sqrt(rest) * noise_error
    if map_error is not None:
        error = error + float(added_by_step(schedule, share)[timestep]) * map_error
    return error.flatten(1).square().sum(dim=1) / (2 * variance * (1 - beta))


def reading_weights(schedule: NoiseSchedule, share: Tensor, timesteps: Sequence[int]) -> Tensor:
    """Weigh a map's estimates along a sampler by k² / (1 - ᾱ), how clearly each step holds the map.

    Returns:
        float64, one for each timestep, sum 1; all alike where nothing is carried.
    """
    index = torch.tensor(list(timesteps))
    weights = share[index].square() / (1 - schedule.alpha_bar[index])
    total = weights.sum()
    return weights / total if total > 0 else torch.full_like(weights, 1 / len(index))


def _before(values: Tensor, first: float) -> Tensor:
    return torch.cat([values.new_tensor([first]), values[:-1]])
