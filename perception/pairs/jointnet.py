"""JointNet (Zhang et al., 2024): a text-to-image U-Net and its copy for a dense map, linked.

The copy denoises the latents of the map beside those of the image. At the start no link carries
anything, so each branch is the U-Net that it was made from.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from perception.diffusion.samplers import ddim_step
from perception.diffusion.tuning import TunedUnet, sharing_copy, with_lora
from perception.losses.reduction import weighted_mean
from perception.pairs.halves import down_and_middle, expect_plain, up
from perception.pairs.latents import on_each
from perception.pairs.links import BranchLinks
from perception.pairs.network import PairEstimate, PairLatents
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.schedule import NoiseSchedule
    from perception.pairs.network import Known
    from perception.pairs.noised import NoisedPair
    from schemas.sample import Task

JointBranch = Literal["copy", "lora"]


def make_joint_network(
    backbone: DiffusionBackbone,
    tasks: Sequence[Task],
    *,
    joint_branch: JointBranch = "copy",
    lora_rank: int = 8,
    rgb_lr_factor: float = 0.0,
    reads_known: bool = True,
) -> JointNetwork:
    """Make the network at its start; its links are still to be moved to the backbone's device.

    Args:
        backbone: Its U-Net is shared by whatever does not train, and never changed.
        tasks: The task whose map is made; exactly one.
        joint_branch: ``copy`` trains a copy of the whole U-Net (the paper); ``lora`` low-rank terms
            around the shared one.
        rgb_lr_factor: 0 keeps the image's U-Net frozen (the paper's first stage); above, it trains
            at this part of the learning rate (the second).
        reads_known: Whether the branches are told what is known of a pair; the plain network of the
            paper's first stage is not.

    Raises:
        ConfigError: If there is not one task, or the U-Net is not one of latents, time and text in
            float32 or bfloat16.
    """
    if len(tasks) != 1:
        raise ConfigError(
            f"jointnet tasks: wanted one, whose map gets a branch, found {list(tasks)}; choose one "
            "task, or mtdiffusion for several"
        )
    _expect_trainable(backbone)
    # Hooks that another pass has set for the time being would be copied, too.
    with backbone.lock:
        shared = sharing_copy(backbone.unet)
    unet = _trained_copy(shared) if joint_branch == "copy" else with_lora(shared, rank=lora_rank)
    rgb = TunedUnet(shared, dtype=backbone.dtype, lr_factor=0.0)
    joint = TunedUnet(unet, dtype=backbone.dtype, lr_factor=1.0)
    network = JointNetwork(
        rgb, joint, task=tasks[0], schedule=backbone.schedule, reads_known=reads_known
    )
    if rgb_lr_factor > 0:
        network.learn_rgb(lr_factor=rgb_lr_factor)
    return network


def _expect_trainable(backbone: DiffusionBackbone) -> None:
    config = backbone.unet.config
    expect_plain(config)
    if config["in_channels"] != config["out_channels"]:
        raise ConfigError(
            "unet of a pair model: wanted as many channels in as out, found "
            f"{config['in_channels']} and {config['out_channels']}; use a checkpoint for text to "
            "image, not for inpainting or with learned variance"
        )
    if backbone.dtype == torch.float16:
        raise ConfigError(
            "jointnet: wanted a backbone in float32 or bfloat16, found float16, whose small "
            "gradients vanish; set model.dtype to bfloat16"
        )


def _trained_copy(unet: Any) -> Any:
    return copy.deepcopy(unet).float().requires_grad_()


class JointNetwork(nn.Module):
    """Two U-Nets, one of the image and one of its map; fulfils ``PairNetwork``.

    Parameters and state are what trains: the joint branch, the links of both branches, and the
    image's U-Net only once :meth:`learn_rgb` was called.

    Args:
        rgb: The branch of the image.
        joint: The branch of the map.
        task: Whose map it makes.
        schedule: The U-Net's, for both branches.
        reads_known: See :func:`make_joint_network`.
    """

    def __init__(
        self,
        rgb: TunedUnet,
        joint: TunedUnet,
        *,
        task: Task,
        schedule: NoiseSchedule,
        reads_known: bool = True,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.tasks: tuple[Task, ...] = (task,)
        self.rgb = rgb
        self.rgb_links = BranchLinks(rgb.unet, reads_known=reads_known)
        self.joint = joint
        self.joint_links = BranchLinks(joint.unet, reads_known=reads_known)

    def learn_rgb(self, *, lr_factor: float = 0.1) -> None:
        """Train the image's U-Net from now on, too; outputs stay as they are.

        An optimiser has to be made anew: there are more parameters.
        """
        unet = _trained_copy(self.rgb.unet)
        self.rgb = TunedUnet(unet, dtype=self.rgb.dtype, lr_factor=lr_factor)

    def forward(
        self, noisy: PairLatents, timestep: int | Tensor, context: Tensor, known: Known
    ) -> PairLatents:
        """Run both branches once, with gradients where they are enabled.

        Args:
            noisy: Noisy latents.
            timestep: Schedule index of both, or one per sample as int64 [B].
            context: Text embeddings [B, S, D], read by both.
            known: Not read by a network that was made without ``reads_known``.

        Returns:
            The raw predictions, float32.
        """
        (task,) = self.tasks
        image, of_map = (each.to(self.rgb.dtype) for each in (noisy.image, noisy.maps[task]))
        seen_image, seen_map = (
            torch.cat([mask, latents * (1 - mask)], dim=1).to(self.rgb.dtype)
            for mask, latents in (
                (known.masks.image, known.latents.image),
                (known.masks.maps[task], known.latents.maps[task]),
            )
        )
        with self.rgb.casting(image.device):
            for_rgb = self.rgb_links.receive(of_map, torch.cat([seen_image, seen_map], dim=1))
            for_joint = self.joint_links.receive(image, torch.cat([seen_map, seen_image], dim=1))
            rgb = down_and_middle(self.rgb.unet, image, timestep, context, stem_addition=for_rgb)
            joint = down_and_middle(
                self.joint.unet, of_map, timestep, context, stem_addition=for_joint
            )
            # Both are sent before either is received: the branches have no order.
            from_rgb, from_joint = self.rgb_links.send(rgb), self.joint_links.send(joint)
            predicted = up(self.rgb.unet, rgb.plus(*from_joint), context)
            predicted_map = up(self.joint.unet, joint.plus(*from_rgb), context)
        return PairLatents(predicted.float(), {task: predicted_map.float()})

    def training_loss(
        self,
        pair: NoisedPair,
        context: Tensor,
        *,
        map_weights: Mapping[Task, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch: Zhang et al. (2024), equation 1.

        The squared error of the image's noise plus that of the map's (of the velocities, if the
        checkpoint predicts those), each a mean; also where the pair was told to be known.

        Args:
            pair: From ``noised.draw_noised``.
            context: Text embeddings [B, S, D].
            map_weights: Task to the share of valid pixels behind each latent, [B, 1, h, w] in
                [0, 1]; None: all are valid.

        Returns:
            The scalar to minimise, and the terms ``image`` and the task's.
        """
        (task,) = self.tasks
        found = self(pair.noisy, pair.timestep, context, pair.known)
        wanted = on_each(
            lambda clean, noise: self.schedule.training_target(clean, noise, pair.timestep),
            pair.clean,
            pair.noise,
        )
        errors = on_each(
            lambda left, right: (left - right).square().mean(dim=1, keepdim=True), found, wanted
        )
        weights = None if map_weights is None else map_weights[task]
        everywhere = torch.ones_like(errors.image, dtype=torch.bool)
        of_image = errors.image.mean()
        of_map = weighted_mean(errors.maps[task], everywhere, weights)
        terms = {"image": float(of_image.detach()), task: float(of_map.detach())}
        return of_image + of_map, terms

    def start(self, noise: PairLatents, known: Known, timestep: int) -> PairLatents:
        """Return known latents with their noise; at the schedule's end, what is made is noise."""
        is_pure = timestep == self.schedule.num_train_timesteps - 1

        def begin(fresh: Tensor, latents: Tensor, mask: Tensor) -> Tensor:
            noised = self.schedule.add_noise(latents, fresh, timestep)
            return torch.where(mask > 0.5, fresh, noised) if is_pure else noised

        return on_each(begin, noise, known.latents, known.masks)

    def denoise(
        self, state: PairLatents, timestep: int, context: Tensor, known: Known
    ) -> PairEstimate:
        """Run both branches once and convert what they predict."""
        predicted = self(state, timestep, context, known)
        schedule = self.schedule
        return PairEstimate(
            clean=on_each(lambda out, z: schedule.to_x0(out, z, timestep), predicted, state),
            noise=on_each(lambda out, z: schedule.to_epsilon(out, z, timestep), predicted, state),
        )

    def move(
        self, state: PairLatents, estimate: PairEstimate, timestep: int, next_timestep: int | None
    ) -> PairLatents:
        """Take a deterministic DDIM step in both branches."""
        del state
        level = float(self.schedule.alpha_bar[timestep])
        next_level = self.schedule.final_alpha_bar
        if next_timestep is not None:
            next_level = float(self.schedule.alpha_bar[next_timestep])
        return on_each(
            lambda x0, noise: ddim_step(x0, noise, alpha_bar=level, alpha_bar_next=next_level),
            estimate.clean,
            estimate.noise,
        )
