"""The backbone's own denoiser, adapted to the images of a source (Diff-2-in-1, equation 5)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from perception.creators.protocol import CreatorNetwork
from perception.diffusion.tuning import TunedUnet, with_lora
from perception.seeding import draw_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.latents import LatentMoments
    from perception.methods.protocol import Labels
    from schemas.config import RunConfig


def make(config: RunConfig, backbone: DiffusionBackbone) -> AdaptedDenoiser:
    """Make a denoiser that equals the frozen one before its first step.

    Raises:
        ConfigError: If the U-Net has no attention for ``lora``.
    """
    stage = config.training.creator_stage
    if stage.tuning == "full":
        unet = copy.deepcopy(backbone.unet).float().requires_grad_()
    else:
        unet = with_lora(backbone.unet, rank=stage.lora_rank)
    denoiser = TunedUnet(unet, dtype=backbone.dtype, lr_factor=1.0)
    return AdaptedDenoiser(denoiser, text_drop=stage.text_drop)


class AdaptedDenoiser(CreatorNetwork):
    """A U-Net that learns to denoise a source's images under their captions.

    Attributes:
        denoiser: Equals the frozen U-Net before the first step.
    """

    def __init__(self, denoiser: TunedUnet, *, text_drop: float) -> None:
        super().__init__(text_drop=text_drop)
        self.denoiser = denoiser

    def forward(
        self,
        backbone: DiffusionBackbone,
        moments: LatentMoments,
        *,
        labels: Labels,  # noqa: ARG002 - part of the protocol; it makes images alone
        captions: Sequence[str],
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return E‖target − U(z_t, t, text)‖², the mean over elements, t uniform.

        Equation 5 of Diff-2-in-1 (Zheng et al., 2024); the target is the noise, or the velocity
        where the checkpoint predicts that.
        """
        schedule = backbone.schedule
        clean = moments.draw(generators=generator) * backbone.scaling_factor
        noise = draw_noise(clean.shape, generators=generator, device=clean.device)
        timesteps = torch.randint(
            schedule.num_train_timesteps, (len(clean),), generator=generator
        ).to(clean.device)
        context = backbone.embed_text(self.told(captions, generator))
        noisy = schedule.add_noise(clean, noise, timesteps)
        prediction = self.denoiser(noisy, timesteps, context)
        loss = F.mse_loss(prediction.float(), schedule.training_target(clean, noise, timesteps))
        return loss, {"denoising": float(loss.detach())}

    def in_place_of(self, backbone: DiffusionBackbone) -> DiffusionBackbone:
        """The backbone with this U-Net for synthesis; features come from the frozen one."""
        return replace(backbone, tuned_unet=self.denoiser, compiled_unet=None)
