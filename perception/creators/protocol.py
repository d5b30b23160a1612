"""What every creator that learns fulfils: real images, labels and captions become a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from perception.methods.protocol import Labels, evaluating
from perception.seeding import sample_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.latents import LatentMoments


class CreatorNetwork(nn.Module, ABC):
    """Networks on top of a frozen backbone; all of its tensors are trained and published.

    What stays frozen is hidden from ``parameters`` and ``state_dict``, as
    :class:`perception.diffusion.tuning.TunedUnet` does it. A part that learns more slowly is a
    ``TunedUnet`` with its ``lr_factor``.

    Args:
        text_drop: Share of images that training shows under the empty prompt.
    """

    def __init__(self, *, text_drop: float) -> None:
        super().__init__()
        self.text_drop = text_drop

    @abstractmethod
    def forward(
        self,
        backbone: DiffusionBackbone,
        moments: LatentMoments,
        *,
        labels: Labels,
        captions: Sequence[str],
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss on a batch of real images.

        Args:
            moments: The images' posterior.
            labels: Of the run's tasks; invalid everywhere where an image has none.
            captions: B texts; "" where none is known.
            generator: Source of everything random, on the CPU.

        Returns:
            The scalar to minimise, and its parts for the record.
        """

    def held_out(
        self,
        backbone: DiffusionBackbone,
        moments: LatentMoments,
        *,
        labels: Labels,
        captions: Sequence[str],
        seed: int,
    ) -> dict[str, float]:
        """Return figures of images that it does not learn from, lower is better.

        By default the parts of the loss with no text dropped. Equal seeds give equal noises, so
        that figures of several sets of weights can be compared.
        """
        with evaluating(self):
            _, parts = self(
                backbone,
                moments,
                labels=labels,
                captions=captions,
                generator=sample_generator(seed),
            )
        return {f"{name}_loss": value for name, value in parts.items()}

    def in_place_of(self, backbone: DiffusionBackbone) -> DiffusionBackbone:
        """What images without maps are made with: the frozen backbone, if it has no other."""
        return backbone

    def told(self, captions: Sequence[str], generator: torch.Generator) -> list[str]:
        """Captions as training shows them: a share of them dropped, none in evaluation mode."""
        is_dropped = torch.rand(len(captions), generator=generator) < self.text_drop
        return [
            "" if self.training and dropped else caption
            for caption, dropped in zip(captions, is_dropped.tolist(), strict=True)
        ]
