"""JointNet (Zhang et al., 2024) as method: the map of one task, made beside its image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perception.methods.pair_model import EncodedLabels, PairModel, PairOutputs, backbone_of
from perception.pairs.jointnet import JointNetwork, make_joint_network
from perception.pairs.known import MaskShares, image_known
from perception.pairs.network import PairLatents
from perception.pairs.noised import draw_noised
from perception.pairs.sampler import sample_pairs, strength_timesteps

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from perception.methods.spec import MethodSpec
    from schemas.sample import Task


def make(spec: MethodSpec) -> JointNet:
    """Make the method at its start: two U-Nets that are the backbone's, links that carry nothing.

    Nothing is drawn: the run's seed plays no part in these weights.

    Args:
        spec: The run's choices and its backbone.

    Raises:
        ConfigError: If there is not one task, or the backbone cannot be trained.
    """
    options = spec.pairs.jointnet
    network = make_joint_network(
        backbone_of(spec),
        spec.choices.tasks,
        joint_branch=options.joint_branch,
        lora_rank=options.lora_rank,
        rgb_lr_factor=options.rgb_lr_factor,
    )
    return JointNet(network, spec, map_weight=1.0)


class JointNet(PairModel):
    """Both branches denoise together; to predict, the image's is told its image."""

    network: JointNetwork

    def run_noised(
        self,
        image: Tensor,
        context: Tensor,
        encoded: EncodedLabels,
        generator: torch.Generator | None,
    ) -> PairOutputs:
        """See :meth:`PairModel.run_noised`: one timestep for both, masks of what is known."""
        options = self.options.jointnet
        pair = draw_noised(
            PairLatents(image, encoded.maps),
            self.network.schedule,
            masks=MaskShares(*options.masks),
            noise_offset=options.noise_offset,
            generators=generator,
        )
        return PairOutputs(
            found=self.network(pair.noisy, pair.timestep, context, pair.known),
            image_target=self._target(pair.clean.image, pair.noise.image, pair.timestep),
            noise=pair.noise,
            timestep=pair.timestep,
            encoded=encoded,
        )

    def map_target(self, outputs: PairOutputs, task: Task, latents: Tensor) -> Tensor:
        """See :meth:`PairModel.map_target`: noise or velocity, as of the image."""
        return self._target(latents, outputs.noise.maps[task], outputs.timestep)

    def make_maps(
        self, image: Tensor, context: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[Task, Tensor]:
        """See :meth:`PairModel.make_maps`: DDIM of a pair whose image is known."""
        timesteps = strength_timesteps(self.network.schedule, num_steps=self.options.predict_steps)
        known = image_known(image, self.tasks)
        made = sample_pairs(
            self.network, known, context, timesteps=timesteps, generators=generators
        )
        return made.maps

    def _target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return self.network.schedule.training_target(clean, noise, timestep)
