"""Train the starter's autoencoder on rendered rooms and measure it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from kit.starter.checkpoint import load_average
from kit.starter.configs import make_autoencoder
from kit.starter.data import Rooms, to_model_range
from kit.starter.loop import LoopSettings, make_state, train
from schemas.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

STAGE = "autoencoder"
BATCH_SIZE = 16
KL_WEIGHT = 1e-4
SQUARED_WEIGHT = 4.0
GRADIENT_WEIGHT = 0.5
REFRESH_EVERY = 100


def autoencoder_losses(model: AutoencoderKL, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Return the losses of one batch; "loss" is their weighted sum.

    Args:
        images: [B, 3, H, W] in [-1, 1].
        noise: Standard normal [B, 4, H/4, W/4] for the posterior's sample.

    Returns:
        Scalars "loss", "absolute", "squared" (both per channel value), "gradient" (of the
        differences between neighbours) and "kl" (per latent value).
    """
    posterior = model.encode(images).latent_dist
    latents = posterior.mean + posterior.std * noise
    restored = model.decode(latents).sample.float()
    error = restored - images
    absolute, squared = error.abs().mean(), error.square().mean()
    gradient = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    reconstruction = absolute + SQUARED_WEIGHT * squared + GRADIENT_WEIGHT * gradient
    return {
        "loss": reconstruction + KL_WEIGHT * kl,
        "absolute": absolute,
        "squared": squared,
        "gradient": gradient,
        "kl": kl,
    }


def train_autoencoder(rooms: Rooms, settings: LoopSettings, work_dir: Path) -> None:
    """Train an autoencoder, or go on where a checkpoint stands.

    Args:
        rooms: What to train on; looked through for new tars as training goes.
        work_dir: Where checkpoint and log lie, and the finished model, see `load_autoencoder`.
    """
    torch.manual_seed(settings.seed)
    model = make_autoencoder()
    state = make_state(model, settings)

    def loss_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step % REFRESH_EVERY == 0:
            rooms.refresh()
        chosen = torch.randint(len(rooms), (BATCH_SIZE,), generator=generator)
        flipped = torch.rand(BATCH_SIZE, generator=generator) < 0.5
        images = to_model_range(rooms.images[chosen])
        images[flipped] = images[flipped].flip(-1)
        size = images.shape[-1] // 4
        noise = torch.randn(BATCH_SIZE, 4, size, size, generator=generator)
        return autoencoder_losses(model, images.to(settings.device), noise.to(settings.device))

    train(STAGE, state, loss_of, settings, work_dir)
    load_average(work_dir / f"{STAGE}.safetensors", model)
    deviation = latent_deviation(model, rooms.images[:512])
    model.register_to_config(scaling_factor=round(1.0 / deviation, 5))
    logger.info("latent deviation %.4f", deviation)
    model.save_pretrained(work_dir / STAGE, safe_serialization=True)


def load_autoencoder(work_dir: Path) -> AutoencoderKL:
    """Return the finished autoencoder of a work directory, in eval mode.

    Its weights are the moving average; `scaling_factor` gives latents of unit deviation.

    Raises:
        UserError: If none was trained there.
    """
    folder = work_dir / STAGE
    if not folder.is_dir():
        raise UserError(
            f"{work_dir}: wanted a finished autoencoder, found none; run --stage autoencoder first"
        )
    model = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    # Otherwise the path on this machine would be exported with the configuration.
    model.register_to_config(_name_or_path="")
    return model.eval()


@torch.no_grad()
def latent_deviation(model: AutoencoderKL, images: Tensor) -> float:
    """Return the standard deviation of the latents of uint8 images, sampling noise included."""
    mean, std = encode_moments(model, images)
    return float((mean.float().var() + std.float().square().mean()).sqrt())


@torch.no_grad()
def encode_moments(model: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the posteriors of uint8 images, as float16 on the CPU.

    Args:
        images: uint8 [N, 3, H, W].

    Returns:
        Two tensors [N, 4, H/4, W/4], unscaled.
    """
    means, stds = [], []
    for batch in images.split(64):
        posterior = model.encode(to_model_range(batch).to(model.device)).latent_dist
        means.append(posterior.mean.half().cpu())
        stds.append(posterior.std.half().cpu())
    return torch.cat(means), torch.cat(stds)
