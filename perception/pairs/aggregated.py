"""One U-Net for an image and its maps: MT-Diffusion (Chen et al., 2024) for maps in latent space.

The noisy latents carry the maps (``perception/pairs/carried.py``). The U-Net's features become the
noise by its own last layers, and the maps by copies of them: one pass for all.

Letters: z_t noisy latents, E latents of maps, u_t = z_t - k_t Σ E plain noisy latents, on which all
conversions between noise, velocity and clean latents act.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.diffusion.samplers import ddim_step
from perception.diffusion.tuning import Tuning, tuned_copy
from perception.losses.reduction import weighted_mean
from perception.pairs.carried import CarriedFamily, expect_start_from_noise, make_share, times
from perception.pairs.network import Known, PairEstimate, PairLatents

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.schedule import Timestep
    from schemas.sample import Task

_MADE = 0.5
"""A mask above it says that a pixel is to be made."""


def output_block(unet: Any) -> nn.Sequential:
    """Copy the last layers of a U-Net (norm, SiLU, convolution), in float32, to be trained."""
    layers = (unet.conv_norm_out, unet.conv_act, unet.conv_out)
    return nn.Sequential(*copy.deepcopy(layers)).float().requires_grad_()


def aggregated_loss(
    prediction: Tensor,
    target: Tensor,
    maps: Mapping[Task, tuple[Tensor, Tensor, Tensor]],
    *,
    head_weight: float = 0.1,
    image_weights: Tensor | None = None,
    task_weights: Mapping[Task, float] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Eq. 6: mean squared error of the U-Net's prediction + λ Σ of those of the maps.

    Args:
        prediction: Noise or velocity [B, C, h, w], as the checkpoint predicts.
        target: The same, true.
        maps: Task to its estimate [B, C, h, w], its true latents, and what each latent pixel
            counts, [B, 1, h, w], at least 0: 0 where the label is missing.
        head_weight: λ; 0.1 in the paper.
        image_weights: What each image counts in its own term, [B, 1, 1, 1]; None: 1.
        task_weights: Task to another factor of its term; 1 where missing.

    Returns:
        The scalar to minimise, and each mean, by ``image`` and task.
    """
    if image_weights is None:
        total = functional.mse_loss(prediction.float(), target.float())
    else:
        total = _mean_square(prediction, target, image_weights.expand_as(prediction[:, :1]))
    terms: dict[str, Tensor] = {"image": total}
    for task, (found, wanted, weights) in maps.items():
        terms[task] = _mean_square(found, wanted, weights)
        total = total + head_weight * (task_weights or {}).get(task, 1.0) * terms[task]
    return total, {name: float(term.detach()) for name, term in terms.items()}


def draw_carried(
    batch_size: int, *, drop_maps: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw which samples' noise carries their maps, bool [B] on the CPU; the others' is plain.

    Without plain ones the heads learn to read the carried map and never the image.

    Args:
        drop_maps: Probability of plain noise, in [0, 1].
    """
    return torch.rand(batch_size, generator=generator) >= drop_maps


class AggregatedNetwork(nn.Module):
    """A trained copy of the backbone's U-Net with one more output block a map.

    It fulfils ``PairNetwork``. In a state, ``image`` is u_t, the noisy image without the maps, and
    ``maps`` is E as far as it is known or estimated: whoever replaces known parts of the image
    by noised ones need not know what is carried.

    Args:
        backbone: The frozen model; not changed.
        tasks: Tasks whose maps it makes, at least one.
        family: How much of the maps the noise carries.
        strength: κ or c of the family, of all maps together: M maps have κ / √M each, so that they
            carry the power of one.
        tuning: ``full`` trains the whole U-Net; ``lora`` low-rank terms. Output blocks are trained
            in either.

    Raises:
        ConfigError: If the family or strength is wrong, or the backbone cannot be tuned so.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        tasks: Sequence[Task],
        *,
        family: CarriedFamily = "bump",
        strength: float = 0.5,
        tuning: Tuning = "full",
        lora_rank: int = 8,
    ) -> None:
        super().__init__()
        self.schedule = backbone.schedule
        self.tasks = tuple(tasks)
        self.share = make_share(self.schedule, family, strength / math.sqrt(len(self.tasks)))
        self.trunk = tuned_copy(backbone, tuning=tuning, lora_rank=lora_rank, lr_factor=1.0)
        # Without its last layers the U-Net returns what they read.
        self.trunk.unet.conv_norm_out = None
        self.trunk.unet.conv_out = nn.Identity()
        self.image_head = output_block(backbone.unet)
        self.map_heads = nn.ModuleDict({task: output_block(backbone.unet) for task in self.tasks})

    def forward(
        self, noisy: Tensor, timestep: Timestep, context: Tensor
    ) -> tuple[Tensor, dict[Task, Tensor]]:
        """Run the U-Net once.

        Args:
            noisy: z_t [B, C, h, w].
            context: Text embeddings [B, S, D].

        Returns:
            The raw prediction (noise or velocity of u_t) and each task's Ê, float32 [B, C, h, w].
        """
        features = self.trunk(noisy, timestep, context).float()
        return self.image_head(features), {
            task: self.map_heads[task](features) for task in self.tasks
        }

    def carried(self, maps: Mapping[Task, Tensor], timestep: Timestep) -> Tensor:
        """Return k_t Σ E, [B, C, h, w]."""
        together = torch.stack([maps[task] for task in self.tasks]).sum(dim=0)
        return times(self.share, timestep, together)

    def loss(
        self,
        latents: PairLatents,
        context: Tensor,
        *,
        validity: Mapping[Task, Tensor],
        is_carried: Tensor,
        noise: Tensor,
        timestep: Tensor,
        head_weight: float = 0.1,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return Eq. 6 of a batch; the arguments hold everything that is drawn.

        Args:
            latents: Clean, of images and all tasks' maps; a missing map may hold anything finite.
            context: Text embeddings [B, S, D].
            validity: Task to [B, 1, h, w], share of labelled pixels in each latent pixel; a sample
                without any is neither carried nor counted.
            is_carried: bool [B], see :func:`draw_carried`.
            noise: Standard normal [B, C, h, w].
            timestep: int64 [B], uniform in the paper.
            head_weight: λ.

        Returns:
            See :func:`aggregated_loss`.
        """
        noisy = self.add_noise(
            latents, validity=validity, is_carried=is_carried, noise=noise, timestep=timestep
        )
        prediction, found = self(noisy, timestep, context)
        target = self.schedule.training_target(latents.image, noise, timestep)
        maps = {task: (found[task], latents.maps[task], validity[task]) for task in self.tasks}
        return aggregated_loss(prediction, target, maps, head_weight=head_weight)

    def add_noise(
        self,
        latents: PairLatents,
        *,
        validity: Mapping[Task, Tensor],
        is_carried: Tensor,
        noise: Tensor,
        timestep: Tensor,
    ) -> Tensor:
        """Return z_t of Eq. 4, without the maps of samples that carry none; see :meth:`loss`."""
        kept: dict[Task, Tensor] = {}
        for task in self.tasks:
            mapped = latents.maps[task]
            is_kept = is_carried.to(mapped.device) & (validity[task] > 0).flatten(1).any(dim=1)
            kept[task] = torch.where(is_kept.reshape(-1, 1, 1, 1), mapped, torch.zeros_like(mapped))
        plain = self.schedule.add_noise(latents.image, noise, timestep)
        return plain + self.carried(kept, timestep)

    def start(self, noise: PairLatents, known: Known, timestep: int) -> PairLatents:
        """Return known images with their noise, and known maps; at the schedule's end, pure noise.

        There only what is not to be made is known: images start as noise, maps as nothing.

        Raises:
            ConfigError: If image and maps are to be made from noise that cannot stand for the maps.
        """
        image = self.schedule.add_noise(known.latents.image, noise.image, timestep)
        if timestep < self.schedule.num_train_timesteps - 1:
            return PairLatents(image, dict(known.latents.maps))
        made = known.masks.image > _MADE
        unknown = [task for task in self.tasks if (known.masks.maps[task] > _MADE).any()]
        if made.any():
            expect_start_from_noise(self.schedule, [self.share] * len(unknown))
        nothing = dict.fromkeys(self.tasks, torch.zeros_like(noise.image))
        return PairLatents(torch.where(made, noise.image, image), _with_known(nothing, known))

    def denoise(
        self, state: PairLatents, timestep: int, context: Tensor, known: Known
    ) -> PairEstimate:
        """Run the network once; what is carried is taken off by its newest estimate."""
        noisy = state.image + self.carried(_with_known(state.maps, known), timestep)
        prediction, found = self(noisy, timestep, context)
        maps = _with_known(found, known)
        # By the estimate that is carried on: what an older one leaves would pile up in the image.
        plain = noisy - self.carried(maps, timestep)
        return PairEstimate(
            clean=PairLatents(self.schedule.to_x0(prediction, plain, timestep), maps),
            noise=PairLatents(self.schedule.to_epsilon(prediction, plain, timestep)),
        )

    def move(
        self, state: PairLatents, estimate: PairEstimate, timestep: int, next_timestep: int | None
    ) -> PairLatents:
        """Take a deterministic DDIM step of the plain noisy image; the maps are the estimate's."""
        del state
        alpha_bar = self.schedule.alpha_bar
        image = ddim_step(
            estimate.clean.image,
            estimate.noise.image,
            alpha_bar=float(alpha_bar[timestep]),
            alpha_bar_next=self.schedule.final_alpha_bar
            if next_timestep is None
            else float(alpha_bar[next_timestep]),
        )
        return PairLatents(image, dict(estimate.clean.maps))

    def read_maps(
        self, image: Tensor, noise: Tensor, timesteps: Sequence[int], context: Tensor
    ) -> dict[Task, Tensor]:
        """Read the maps off known images; the paper has no procedure for it.

        At each timestep the image is noised with the same noise, and carries the maps of the
        step before, none at first. One timestep reads once, where k should be small; a repeated
        one refines; falling ones repaint, as sampling does with the image known.

        Args:
            image: Clean latents [B, C, h, w].
            noise: Standard normal, same shape.
            context: Text embeddings [B, S, D].

        Returns:
            Each task's Ê of the last step.
        """
        maps = dict.fromkeys(self.tasks, torch.zeros_like(image))
        made = dict.fromkeys(self.tasks, torch.ones_like(image[:, :1]))
        known = Known(PairLatents(image, maps), PairLatents(torch.zeros_like(image[:, :1]), made))
        for timestep in timesteps:
            noised = self.schedule.add_noise(image, noise, timestep)
            maps = self.denoise(PairLatents(noised, maps), timestep, context, known).clean.maps
        return maps


def _mean_square(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    error = (found.float() - wanted.float()).square().mean(dim=1, keepdim=True)
    return weighted_mean(error, weights > 0, weights)


def _with_known(maps: Mapping[Task, Tensor], known: Known) -> dict[Task, Tensor]:
    """Put known maps in the place of others."""
    masks, latents = known.masks.maps, known.latents.maps
    return {
        task: torch.where(masks[task] > _MADE, each, latents[task]) for task, each in maps.items()
    }
