"""The noise schedule: how much signal and noise a latent holds at each timestep.

Symbols follow Ho et al. (2020): beta_t is the variance added by step t, alpha_t = 1 - beta_t,
alpha_bar_t the product of alpha up to and including t. Timesteps are indices from 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Spacing = Literal["leading", "trailing", "log_snr"]
Timestep = int | Tensor
"""One index for the whole batch, or an int64 tensor [B] of indices."""


def halfway_timesteps(
    *,
    start: int,
    num_steps: int,
    spacing: Literal["leading", "trailing"] = "leading",
    num_train_timesteps: int = 1000,
) -> tuple[int, ...]:
    """List the timesteps at which a halfway start is denoised, in the order they are visited.

    ``leading`` is the list of the released Diff-2-in-1 sampler: 50 steps over the first 600 are
    589, 577, ..., 13, 1. The latent itself is noised to ``start`` (600), so the first network call
    is told a slightly smaller noise level than it meets; the gap is below one stride.
    ``trailing`` counts down from ``start`` instead (600, 588, ..., 12): no gap, which matters when
    the stride is long.

    Args:
        start: Timestep T the latent is noised to, in (0, ``num_train_timesteps``]. The index of the
            noise level is ``min(T, num_train_timesteps - 1)``.
        num_steps: Number of network calls, in [1, start].

    Returns:
        Strictly falling indices in [0, num_train_timesteps).

    Raises:
        ConfigError: If a value is out of range.
    """
    _expect_steps_fit(start, num_steps, num_train_timesteps)
    if spacing == "leading":
        stride = start // num_steps
        rising = [1 + stride * i for i in range(num_steps)]
    elif spacing == "trailing":
        rising = [start * (i + 1) // num_steps for i in range(num_steps)]
    else:
        raise ConfigError(
            f"halfway spacing: wanted 'leading' or 'trailing' here, found {spacing!r}"
        )
    # T = num_train_timesteps is one past the last index; the list moves down as a whole.
    excess = max(0, rising[-1] - (num_train_timesteps - 1))
    return tuple(step - excess for step in reversed(rising))


def _expect_steps_fit(start: int, num_steps: int, num_train_timesteps: int) -> None:
    if not 0 < start <= num_train_timesteps:
        raise ConfigError(
            f"halfway start T: wanted a timestep in (0, {num_train_timesteps}], found {start}"
        )
    if not 1 <= num_steps <= start:
        raise ConfigError(
            f"halfway num_steps: wanted between 1 and T={start}, found {num_steps}; "
            "use fewer steps or a larger T"
        )


def make_betas(config: Mapping[str, Any]) -> Tensor:
    """Build the variances beta_t from a diffusers scheduler configuration.

    Args:
        config: Contents of ``scheduler_config.json``. Missing entries take the values of
            Stable Diffusion v1, apart from ``beta_schedule``, which must be given.

    Returns:
        float64 [num_train_timesteps] on the CPU.

    Raises:
        ConfigError: If the schedule is unknown or asks for a rescaling that is not supported.
    """
    if config.get("rescale_betas_zero_snr"):
        raise ConfigError(
            "scheduler: rescale_betas_zero_snr=true is not supported (noise prediction is "
            "undefined at zero signal); use a checkpoint with an unscaled schedule"
        )
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    name = config.get("beta_schedule")
    if name not in _BETA_MAKERS:
        raise ConfigError(
            f"scheduler beta_schedule: wanted one of {sorted(_BETA_MAKERS)}, found {name!r}"
        )
    first, last = float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))
    return _BETA_MAKERS[name](first, last, int(config.get("num_train_timesteps", 1000)))


def _linear_betas(first: float, last: float, count: int) -> Tensor:
    return torch.linspace(first, last, count, dtype=torch.float64)


def _scaled_linear_betas(first: float, last: float, count: int) -> Tensor:
    return torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64).square()


def _squared_cosine_betas(_first: float, _last: float, count: int) -> Tensor:
    """Nichol & Dhariwal (2021), equation 17, with their cap of 0.999."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    alpha_bar = torch.cos((edges + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


_BETA_MAKERS: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": _linear_betas,
    "scaled_linear": _scaled_linear_betas,
    "squaredcos_cap_v2": _squared_cosine_betas,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseSchedule:
    """A fixed noise schedule and the conversions between what networks predict.

    Attributes:
        alpha_bar: Signal variance at each timestep, float64 [num_train_timesteps] on the CPU.
        prediction_type: What the network returns: the noise, the velocity or the clean latent.
        final_alpha_bar: Signal variance that the last sampler step arrives at: ``alpha_bar[0]`` for
            Stable Diffusion, 1 for configurations with ``set_alpha_to_one``.
    """

    alpha_bar: Tensor
    prediction_type: PredictionType
    final_alpha_bar: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Build the schedule from the contents of a diffusers ``scheduler_config.json``.

        Raises:
            ConfigError: If the schedule or the prediction type is not supported.
        """
        prediction_type = config.get("prediction_type", "epsilon")
        if prediction_type not in get_args(PredictionType):
            raise ConfigError(
                f"scheduler prediction_type: wanted one of {get_args(PredictionType)}, "
                f"found {prediction_type!r}"
            )
        alpha_bar = torch.cumprod(1 - make_betas(config), dim=0)
        final = 1.0 if config.get("set_alpha_to_one", False) else float(alpha_bar[0])
        return cls(
            alpha_bar=alpha_bar,
            prediction_type=cast("PredictionType", prediction_type),
            final_alpha_bar=final,
        )

    @property
    def num_train_timesteps(self) -> int:
        """Number of timesteps the network was trained on."""
        return len(self.alpha_bar)

    @property
    def betas(self) -> Tensor:
        """Variances beta_t recovered from ``alpha_bar``, float64 [num_train_timesteps]."""
        before = torch.cat([torch.ones(1, dtype=self.alpha_bar.dtype), self.alpha_bar[:-1]])
        return 1 - self.alpha_bar / before

    def noise_index(self, start: int) -> int:
        """Return the schedule index of a halfway start T in (0, num_train_timesteps]."""
        return min(start, self.num_train_timesteps - 1)

    def timesteps(
        self, *, start: int, num_steps: int, spacing: Spacing = "leading"
    ) -> tuple[int, ...]:
        """List the timesteps of a halfway start on this schedule.

        ``leading`` and ``trailing``: see ``halfway_timesteps``. ``log_snr`` spreads the steps
        evenly in log(alpha_bar / (1 - alpha_bar)) from T to index 0, which itself is left out: the
        natural time of DPM-Solver++ (Lu et al. 2022, section 4), accurate with few steps.

        Args:
            start: Timestep T the latent is noised to.

        Returns:
            ``num_steps`` strictly falling indices.

        Raises:
            ConfigError: If a value is out of range.
        """
        if spacing != "log_snr":
            return halfway_timesteps(
                start=start,
                num_steps=num_steps,
                spacing=spacing,
                num_train_timesteps=self.num_train_timesteps,
            )
        _expect_steps_fit(start, num_steps, self.num_train_timesteps)
        top = self.noise_index(start)
        log_snr = torch.log(self.alpha_bar / (1 - self.alpha_bar))
        wanted = torch.linspace(float(log_snr[0]), float(log_snr[top]), num_steps + 1)[1:]
        nearest = (log_snr[None, : top + 1] - wanted[:, None]).abs().argmin(dim=1).tolist()
        rising: list[int] = []
        for i, index in enumerate(nearest):
            # Near index 0 several targets share an index; keep the list strict and inside.
            above_last = rising[-1] + 1 if rising else 0
            rising.append(min(max(index, above_last), top - (num_steps - 1 - i)))
        return tuple(reversed(rising))

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Timestep) -> Tensor:
        """Jump from clean latents to a timestep: Diff-2-in-1, equation 2.

        Equals applying equation 1, z_t = sqrt(1 - beta_t) z_{t-1} + sqrt(beta_t) n, step by step.

        Args:
            latents: Clean latents z_0, [B, C, h, w].
            noise: Standard normal noise of the same shape.
            timestep: Index or indices in [0, num_train_timesteps).

        Returns:
            sqrt(alpha_bar) z_0 + sqrt(1 - alpha_bar) noise, same shape and dtype.
        """
        signal, sigma = self._signal_and_sigma(timestep, latents)
        return signal * latents + sigma * noise

    def training_target(self, latents: Tensor, noise: Tensor, timestep: Timestep) -> Tensor:
        """Return what the network should predict; equation 5 is its mean squared error.

        The velocity is sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) z_0: Salimans & Ho (2022),
        appendix D.
        """
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        signal, sigma = self._signal_and_sigma(timestep, latents)
        return signal * noise - sigma * latents

    def to_epsilon(self, prediction: Tensor, noisy: Tensor, timestep: Timestep) -> Tensor:
        """Convert a network output at ``noisy`` into the noise it implies."""
        if self.prediction_type == "epsilon":
            return prediction
        signal, sigma = self._signal_and_sigma(timestep, noisy)
        if self.prediction_type == "v_prediction":
            return signal * prediction + sigma * noisy
        return (noisy - signal * prediction) / sigma

    def to_x0(self, prediction: Tensor, noisy: Tensor, timestep: Timestep) -> Tensor:
        """Convert a network output at ``noisy`` into the clean latents it implies."""
        if self.prediction_type == "sample":
            return prediction
        signal, sigma = self._signal_and_sigma(timestep, noisy)
        if self.prediction_type == "v_prediction":
            return signal * noisy - sigma * prediction
        return (noisy - sigma * prediction) / signal

    def posterior_mean_from_noise(self, noisy: Tensor, epsilon: Tensor, timestep: int) -> Tensor:
        """Return the mean of the reverse step p(z_{t-1} | z_t): Diff-2-in-1, equation 4."""
        beta = float(self.betas[timestep])
        alpha_bar = float(self.alpha_bar[timestep])
        return (noisy - beta / math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(1 - beta)

    def _signal_and_sigma(self, timestep: Timestep, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped to multiply ``like``."""
        index = torch.as_tensor(timestep, device=self.alpha_bar.device)
        alpha_bar = self.alpha_bar[index]
        shape = (-1,) + (1,) * (like.ndim - 1) if alpha_bar.ndim else ()
        pair = torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()]).to(like.device, like.dtype)
        return pair[0].reshape(shape), pair[1].reshape(shape)
