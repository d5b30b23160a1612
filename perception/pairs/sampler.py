"""Pairs from noise by DDIM, with what is known held in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from perception.pairs.latents import draw_pair_noise, on_each, rows
from perception.pairs.network import Known, PairEstimate
from perception.shapes import ShapeError
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from perception.diffusion.schedule import NoiseSchedule
    from perception.pairs.network import PairLatents, PairNetwork
    from perception.seeding import Generators


def strength_timesteps(
    schedule: NoiseSchedule, *, num_steps: int, strength: float = 1.0
) -> tuple[int, ...]:
    """List the last int(strength N) of N timesteps over the whole schedule.

    They count down from the schedule's end, so that the network is told the noise level it meets:
    few steps suffer from a gap.

    Args:
        num_steps: N, the number of network calls at strength 1.
        strength: In (0, 1]; below 1, sampling starts from what is known, noised.

    Raises:
        ConfigError: If the strength is out of range or leaves no step.
    """
    # A product such as 0.58 * 50 falls a rounding below the whole number that is meant.
    count = int(num_steps * strength + 1e-9)
    if not 0 < strength <= 1 or count < 1:
        raise ConfigError(
            f"strength: wanted a value in (0, 1] that leaves a step of {num_steps}, found "
            f"{strength}; use more strength or more steps"
        )
    every = schedule.timesteps(
        start=schedule.num_train_timesteps, num_steps=num_steps, spacing="trailing"
    )
    return every[-count:]


@torch.no_grad()
def sample_pairs(
    network: PairNetwork,
    known: Known,
    context: Tensor,
    *,
    timesteps: Sequence[int],
    generators: Generators,
    guidance_scale: float = 1.0,
    empty_context: Tensor | None = None,
) -> PairLatents:
    """Make pairs.

    What is known is blended in at every noise level with the initial noise (Lugmayr et al., 2022;
    the same noise throughout, as the sampler is deterministic), before the first network call too,
    and is returned as it was.

    A sample depends on what is known of it, its text and its generator, not on its batch (up to
    the rounding of the network).

    Args:
        context: Embedded text [B, S, D].
        timesteps: Falling schedule indices; the last index stands for noise alone, a start at a
            lower one holds the known latents, noised, where something is to be made too.
        generators: One per sample, for its noise.
        guidance_scale: At least 1: unguided + scale * (guided - unguided), of the text alone.
        empty_context: Embedded empty text [B, S, D] (or one row); needed above scale 1.

    Returns:
        Clean latents of the image and of a map of each task.

    Raises:
        ConfigError: If guidance has no text to move away from.
        ShapeError: If the numbers of texts and samples differ.
    """
    count = len(known.latents.image)
    if len(context) != count:
        raise ShapeError(f"context: wanted one for each of {count} samples, found {len(context)}")
    if guidance_scale != 1.0 and empty_context is None:
        raise ConfigError(
            f"guidance_scale {guidance_scale}: wanted the embedded empty text as well, found none; "
            "give empty_context, or use guidance_scale 1"
        )
    noise = draw_pair_noise(known.latents, generators=generators)
    state = network.start(noise, known, timesteps[0])
    for timestep, next_timestep in zip(timesteps, [*timesteps[1:], None], strict=True):
        if empty_context is None or guidance_scale == 1.0:
            estimate = network.denoise(state, timestep, context, known)
        else:
            both = torch.cat([empty_context.expand_as(context), context])
            estimate = _guided(network, state, timestep, both, known, guidance_scale)
        estimate = _with_known(estimate, known, noise)
        state = network.move(state, estimate, timestep, next_timestep)
    # The end of the schedule may hold a rest of noise.
    return on_each(_blend, state, known.latents, known.masks)


def _guided(
    network: PairNetwork,
    state: PairLatents,
    timestep: int,
    both: Tensor,
    known: Known,
    scale: float,
) -> PairEstimate:
    """Ho & Salimans (2022), equation 6: exact for whatever is linear in the prediction."""
    count = len(both) // 2
    found = network.denoise(
        on_each(_twice, state),
        timestep,
        both,
        Known(on_each(_twice, known.latents), on_each(_twice, known.masks)),
    )

    def mix(pair: PairLatents) -> PairLatents:
        return on_each(
            lambda unguided, guided: unguided + scale * (guided - unguided),
            rows(pair, slice(count)),
            rows(pair, slice(count, None)),
        )

    return PairEstimate(clean=mix(found.clean), noise=mix(found.noise))


def _with_known(estimate: PairEstimate, known: Known, noise: PairLatents) -> PairEstimate:
    """Put what is known, and its noise, in place of their estimates.

    Moving to the next level then arrives at the known latents with the same noise.
    """
    return PairEstimate(
        clean=on_each(_blend, estimate.clean, known.latents, known.masks),
        noise=on_each(_blend, estimate.noise, noise, known.masks),
    )


def _blend(made: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask > 0.5, made, kept)


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])
