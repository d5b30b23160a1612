"""Train the starter's U-Net and text encoder together on the autoencoder's latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kit.starter.autoencoder import encode_moments
from kit.starter.checkpoint import load_average
from kit.starter.configs import make_scheduler, make_text_encoder, make_unet
from kit.starter.data import Rooms, mirror_caption
from kit.starter.loop import LoopSettings, make_state, train

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

STAGE = "denoiser"
BATCH_SIZE = 32
EMPTY_PROMPT_SHARE = 0.1
REFRESH_EVERY = 100


class ConditionalDenoiser(nn.Module):
    """U-Net and text encoder as one trained module."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """Predict velocities.

        Args:
            noisy: Scaled noisy latents [B, 4, h, w].
            timesteps: int64 [B].
            token_ids: int64 [B, L].

        Returns:
            Velocities [B, 4, h, w], float32.
        """
        context = self.text_encoder(token_ids)[0]
        return self.unet(noisy, timesteps, encoder_hidden_states=context).sample.float()


class LatentRooms:
    """Posterior moments and tokens of rooms, each room also mirrored.

    Attributes:
        mean: Posterior means, float16 [2N, 4, h, w], unscaled: each room, then its mirror image.
        std: Posterior deviations, same shape.
        token_ids: int64 [2N, L].
    """

    def __init__(self, rooms: Rooms, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer) -> None:
        self.rooms = rooms
        self._autoencoder = autoencoder
        self._tokenizer = tokenizer
        self.empty_ids = tokenize(tokenizer, [""])[0]
        self._encoded = 0
        self.mean = self.std = self.token_ids = torch.empty(0)
        self._encode_new()

    def __len__(self) -> int:
        return len(self.mean)

    def refresh(self) -> None:
        """Encode rooms that appeared since the last call."""
        # It happens in the middle of a training step, where autocast refuses float16.
        with torch.autocast(self._autoencoder.device.type, enabled=False):
            if self.rooms.refresh():
                self._encode_new()

    def _encode_new(self) -> None:
        images = self.rooms.images[self._encoded :]
        captions = self.rooms.captions[self._encoded :]
        both = torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)
        texts = [text for caption in captions for text in (caption, mirror_caption(caption))]
        mean, std = encode_moments(self._autoencoder, both)
        token_ids = tokenize(self._tokenizer, texts)
        first = not self._encoded
        self.mean = mean if first else torch.cat([self.mean, mean])
        self.std = std if first else torch.cat([self.std, std])
        self.token_ids = token_ids if first else torch.cat([self.token_ids, token_ids])
        self._encoded = len(self.rooms)


@dataclass(frozen=True)
class Noised:
    """A batch for the denoiser.

    Attributes:
        noisy: Latents at `timesteps` [B, 4, h, w].
        timesteps: int64 [B].
        token_ids: int64 [B, L].
        velocity: What the denoiser should answer [B, 4, h, w].
    """

    noisy: Tensor
    timesteps: Tensor
    token_ids: Tensor
    velocity: Tensor

    def to(self, device: torch.device) -> Noised:
        """Return the batch on another device."""
        parts = (self.noisy, self.timesteps, self.token_ids, self.velocity)
        return Noised(*(part.to(device) for part in parts))

    def loss(self, denoiser: ConditionalDenoiser) -> Tensor:
        """Return the squared error of each sample, float32 [B]."""
        predicted = denoiser(self.noisy, self.timesteps, self.token_ids)
        return (predicted - self.velocity).square().flatten(1).mean(dim=1)


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Return token ids int64 [B, L], padded to the tokenizer's length."""
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt")
    return tokens.input_ids


def noise_batch(
    latents: Tensor, token_ids: Tensor, timesteps: Tensor, noise: Tensor, scheduler: DDIMScheduler
) -> Noised:
    """Noise clean latents and state the velocity to learn.

    v = sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * latents (Salimans & Ho 2022, appendix D).

    Args:
        latents: Scaled clean latents [B, 4, h, w].
        token_ids: int64 [B, L].
        timesteps: int64 [B].
        noise: Standard normal [B, 4, h, w].
    """
    return Noised(
        scheduler.add_noise(latents, noise, timesteps),
        timesteps,
        token_ids,
        scheduler.get_velocity(latents, noise, timesteps),
    )


def train_denoiser(
    rooms: Rooms,
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    settings: LoopSettings,
    work_dir: Path,
) -> None:
    """Train U-Net and text encoder, or go on where a checkpoint stands.

    A tenth of the captions is replaced by the empty prompt, for features and guidance.

    Args:
        rooms: What to train on; looked through for new tars as training goes.
    """
    torch.manual_seed(settings.seed)
    denoiser = ConditionalDenoiser(make_unet(), make_text_encoder(tokenizer))
    state = make_state(denoiser, settings)
    latent_rooms = LatentRooms(rooms, autoencoder, tokenizer)
    scale = float(autoencoder.config.scaling_factor)
    scheduler = make_scheduler()

    def loss_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step % REFRESH_EVERY == 0:
            latent_rooms.refresh()
        latents, token_ids = _draw_batch(latent_rooms, scale, generator)
        timesteps = torch.randint(1000, (BATCH_SIZE,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        batch = noise_batch(latents, token_ids, timesteps, noise, scheduler)
        return {"loss": batch.to(settings.device).loss(denoiser).mean()}

    train(STAGE, state, loss_of, settings, work_dir)


def load_denoiser(tokenizer: CLIPTokenizer, work_dir: Path) -> ConditionalDenoiser:
    """Return the averaged weights of a work directory's denoiser, in eval mode.

    Raises:
        UserError: If none was trained there.
    """
    denoiser = ConditionalDenoiser(make_unet(), make_text_encoder(tokenizer))
    load_average(work_dir / f"{STAGE}.safetensors", denoiser)
    return denoiser


def _draw_batch(
    latent_rooms: LatentRooms, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(latent_rooms), (BATCH_SIZE,), generator=generator)
    mean, std = latent_rooms.mean[chosen].float(), latent_rooms.std[chosen].float()
    latents = (mean + std * torch.randn(mean.shape, generator=generator)) * scale
    token_ids = latent_rooms.token_ids[chosen].clone()
    token_ids[torch.rand(BATCH_SIZE, generator=generator) < EMPTY_PROMPT_SHARE] = (
        latent_rooms.empty_ids
    )
    return latents, token_ids
