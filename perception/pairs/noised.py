"""What a training step of a pair model draws: noise level, noises, and what is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from perception.pairs.known import MaskShares, draw_masks
from perception.pairs.latents import on_each
from perception.pairs.network import Known, PairLatents
from perception.seeding import draw_seeds, sample_generator

if TYPE_CHECKING:
    from torch import Tensor

    from perception.diffusion.schedule import NoiseSchedule
    from perception.seeding import Generators


@dataclass(frozen=True, slots=True, eq=False)
class NoisedPair:
    """A batch of pairs, noised.

    Attributes:
        clean: Scaled clean latents.
        noise: What was added to them, the image's and the map's apart.
        noisy: ``clean`` at ``timestep``; all of it is noised, also what is known.
        timestep: int64 [B], one for a pair.
        known: The clean latents with the masks that were drawn.
    """

    clean: PairLatents
    noise: PairLatents
    noisy: PairLatents
    timestep: Tensor
    known: Known


def draw_noised(
    pair: PairLatents,
    schedule: NoiseSchedule,
    *,
    masks: MaskShares | None = None,
    noise_offset: float = 0.05,
    generators: Generators = None,
) -> NoisedPair:
    """Noise a batch of pairs of an image and the map of one task.

    Args:
        pair: Scaled clean latents.
        masks: The defaults of ``MaskShares`` if None.
        noise_offset: o of noise + o n, n one standard normal number per sample and channel: lets
            the network learn the mean brightness, which white noise of many pixels leaves visible.
        generators: Source of every draw; a pair's draws do not depend on its batch if it has one
            of its own.
    """
    (task,) = pair.maps
    shares, (height, width) = masks or MaskShares(), pair.image.shape[-2:]
    drawn: list[tuple[Tensor, ...]] = []
    for seed in draw_seeds(generators, len(pair.image)).tolist():
        generator = sample_generator(seed)
        timestep = torch.randint(schedule.num_train_timesteps, (), generator=generator)
        noises = [
            torch.randn(each.shape[1:], generator=generator)
            + noise_offset * torch.randn(each.shape[1], 1, 1, generator=generator)
            for each in (pair.image, pair.maps[task])
        ]
        of_masks = draw_masks(shares, (height, width), generator)
        drawn.append((timestep, *noises, *of_masks))
    columns = [torch.stack(column).to(pair.image.device) for column in zip(*drawn, strict=True)]
    timestep, noise = columns[0], PairLatents(columns[1], {task: columns[2]})
    return NoisedPair(
        clean=pair,
        noise=noise,
        noisy=on_each(lambda z, n: schedule.add_noise(z, n, timestep), pair, noise),
        timestep=timestep,
        known=Known(pair, PairLatents(columns[3], {task: columns[4]})),
    )
