"""MT-Diffusion (Chen et al., 2024) as method: one U-Net makes an image and its maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from perception.methods.pair_model import EncodedLabels, PairModel, PairOutputs, backbone_of
from perception.pairs.aggregated import AggregatedNetwork, draw_carried
from perception.pairs.carried import expect_start_from_noise
from perception.pairs.network import PairLatents
from perception.pairs.sampler import strength_timesteps
from perception.seeding import draw_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from perception.methods.spec import MethodSpec
    from perception.pairs.known import KnownPart
    from schemas.config import CreatorSection
    from schemas.sample import Task


def make(spec: MethodSpec) -> MtDiffusion:
    """Make the method at its start: every output block is a copy of the U-Net's own.

    Args:
        spec: The run's choices and its backbone.

    Raises:
        ConfigError: If the backbone cannot be trained so.
    """
    options = spec.pairs.mtdiffusion
    network = AggregatedNetwork(
        backbone_of(spec),
        spec.choices.tasks,
        family=options.carried,
        strength=options.strength,
        tuning=options.tuning,
        lora_rank=options.lora_rank,
    )
    return MtDiffusion(network, spec, map_weight=options.head_weight)


class MtDiffusion(PairModel):
    """The noisy image carries its maps; to predict, they are read off the known image."""

    network: AggregatedNetwork

    def run_noised(
        self,
        image: Tensor,
        context: Tensor,
        encoded: EncodedLabels,
        generator: torch.Generator | None,
    ) -> PairOutputs:
        """See :meth:`PairModel.run_noised`: a share of the samples carries no map."""
        schedule, count = self.network.schedule, len(image)
        timestep = torch.randint(schedule.num_train_timesteps, (count,), generator=generator)
        timestep = timestep.to(image.device)
        noise = draw_noise(image.shape, generators=generator, device=image.device)
        noisy = self.network.add_noise(
            PairLatents(image, encoded.maps),
            validity=encoded.validity,
            is_carried=draw_carried(
                count, drop_maps=self.options.mtdiffusion.drop_maps, generator=generator
            ),
            noise=noise,
            timestep=timestep,
        )
        prediction, maps = self.network(noisy, timestep, context)
        return PairOutputs(
            found=PairLatents(prediction, maps),
            image_target=schedule.training_target(image, noise, timestep),
            noise=PairLatents(noise),
            timestep=timestep,
            encoded=encoded,
        )

    def map_target(self, outputs: PairOutputs, task: Task, latents: Tensor) -> Tensor:
        """See :meth:`PairModel.map_target`: the heads say the clean map itself."""
        del outputs, task
        return latents

    def make_maps(
        self, image: Tensor, context: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[Task, Tensor]:
        """See :meth:`PairModel.make_maps`, in one of three ways (``mtdiffusion.predict``)."""
        options, steps = self.options.mtdiffusion, self.options.predict_steps
        if options.predict == "repaint":
            timesteps = strength_timesteps(self.network.schedule, num_steps=steps)
        else:
            timesteps = (options.read_timestep,) * (steps if options.predict == "refine" else 1)
        noise = draw_noise(image.shape, generators=generators, device=image.device)
        return self.network.read_maps(image, noise, timesteps, context)

    def expect_creates(self, settings: CreatorSection, known: KnownPart) -> None:
        """See :meth:`PairModel.expect_creates`; noise has to be able to stand for the maps."""
        super().expect_creates(settings, known)
        schedule = self.network.schedule
        is_all_noise = known == "pair" and settings.t_start >= schedule.num_train_timesteps - 1
        if known == "nothing" or is_all_noise:
            expect_start_from_noise(schedule, [self.network.share] * len(self.tasks))
