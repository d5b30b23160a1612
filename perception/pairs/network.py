"""What samplers ask of a network that denoises an image and its maps together.

Latents are scaled, as the U-Net sees them; [B, C, h, w] for the image and for each map.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from perception.diffusion.schedule import NoiseSchedule
    from schemas.sample import Task


@dataclass(frozen=True, slots=True, eq=False)
class PairLatents:
    """An image and its maps.

    Attributes:
        image: [B, C, h, w].
        maps: Task to [B, C, h, w].
    """

    image: Tensor
    maps: dict[Task, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What a pair is made from.

    Attributes:
        latents: Clean latents; where a mask is 1, read only by a start below the schedule's end.
        masks: [B, 1, h, w], image's and maps': 1 where it is to be made, 0 where it is known.
    """

    latents: PairLatents
    masks: PairLatents


@dataclass(frozen=True, slots=True, eq=False)
class PairEstimate:
    """What a network reads off noisy latents.

    Attributes:
        clean: Its estimate of the clean image and maps.
        noise: Its estimate of their noise; without maps that have no noise of their own.
    """

    clean: PairLatents
    noise: PairLatents


class PairNetwork(Protocol):
    """A network of images and maps, with its own rule for moving between noise levels.

    Guidance, the blending of what is known, and where noise comes from are the sampler's.

    Attributes:
        schedule: Of the image's noise.
        tasks: Tasks whose maps it makes.
    """

    schedule: NoiseSchedule
    tasks: tuple[Task, ...]

    def start(self, noise: PairLatents, known: Known, timestep: int) -> PairLatents:
        """Return the noisy state at a timestep.

        Args:
            noise: Standard normal.
        """
        ...

    def denoise(
        self, state: PairLatents, timestep: int, context: Tensor, known: Known
    ) -> PairEstimate:
        """Run the network once.

        Args:
            context: Embedded text [B, S, D].
        """
        ...

    def move(
        self, state: PairLatents, estimate: PairEstimate, timestep: int, next_timestep: int | None
    ) -> PairLatents:
        """Take a deterministic DDIM step to a lower timestep; None: to the clean end."""
        ...
