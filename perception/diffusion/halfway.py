"""Halfway synthesis: noise a real image part of the way and denoise it back under its caption.

The image keeps its layout and takes new content. Starting from pure noise (T at the end of the
schedule) is the limit that keeps nothing: the Gaussian creator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perception.diffusion.latents import (
    Images,
    LatentMoments,
    Posterior,
    decode_images,
    encode_latents,
    encode_moments,
    latent_shape,
)
from perception.diffusion.samplers import Predict, ddim_sample, dpm_solver_sample
from perception.seeding import Generators, draw_noise, sample_generator
from perception.shapes import ShapeError
from schemas.config import PURE_NOISE_START
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.schedule import Spacing
    from schemas.config import CreatorSection

__all__ = [
    "decode_images",
    "denoise",
    "encode_latents",
    "encode_moments",
    "noise_to_start",
    "synthesize_gaussian",
    "synthesize_halfway",
    "synthesize_latents",
]


def synthesize_halfway(
    backbone: DiffusionBackbone,
    images: Images | LatentMoments,
    prompts: Sequence[str] | Tensor,
    *,
    settings: CreatorSection,
    seeds: Sequence[int],
) -> NDArray[np.uint8]:
    """Make one synthetic image from each real one.

    The result of a sample depends on its image, prompt, seed and the settings, not on the batch it
    is in (up to the rounding of the networks).

    Args:
        images: B real images (see ``latents.Images``), or their moments encoded before.
        prompts: B captions, or their embeddings [B, L, C].
        settings: How; ``start`` at the end of the schedule uses nothing of the images but their
            size.
        seeds: B seeds, see ``seeding.sample_seed``.

    Returns:
        uint8 RGB [B, H, W, 3].

    Raises:
        ShapeError: If the numbers of images, prompts and seeds differ.
        SampleError: If a decoded image is not finite.
    """
    latents = synthesize_latents(backbone, images, prompts, settings=settings, seeds=seeds)
    return decode_images(backbone, latents)


def synthesize_latents(
    backbone: DiffusionBackbone,
    images: Images | LatentMoments,
    prompts: Sequence[str] | Tensor,
    *,
    settings: CreatorSection,
    seeds: Sequence[int],
    posterior: Posterior = "sample",
    spacing: Spacing | None = None,
) -> Tensor:
    """Do what ``synthesize_halfway`` does, short of decoding.

    Returns:
        Scaled clean latents, float32 [B, C, h, w].

    Raises:
        ShapeError: If the numbers of images, prompts and seeds differ.
    """
    if not len(images) == len(prompts) == len(seeds):
        raise ShapeError(
            f"halfway: wanted as many images as prompts and seeds, found {len(images)}, "
            f"{len(prompts)} and {len(seeds)}"
        )
    generators = [sample_generator(seed) for seed in seeds]
    moments = images if isinstance(images, LatentMoments) else encode_moments(backbone, images)
    if settings.start == PURE_NOISE_START:
        start = draw_noise(moments.mean.shape, generators=generators, device=backbone.device)
    else:
        clean = moments.draw(posterior=posterior, generators=generators)
        start = noise_to_start(
            backbone, clean * backbone.scaling_factor, settings=settings, generators=generators
        )
    return denoise(
        backbone, start, prompts, settings=settings, generators=generators, spacing=spacing
    )


def synthesize_gaussian(
    backbone: DiffusionBackbone,
    prompts: Sequence[str] | Tensor,
    *,
    image_size_px: tuple[int, int],
    settings: CreatorSection,
    seeds: Sequence[int],
) -> NDArray[np.uint8]:
    """Make images from pure noise and a prompt alone.

    Args:
        prompts: B texts, or their embeddings [B, L, C].
        image_size_px: Height and width, divisible by the backbone's downsample factor.
        settings: How; ``start`` must be 1000.

    Returns:
        uint8 RGB [B, H, W, 3].

    Raises:
        ConfigError: If ``start`` is not 1000.
        ShapeError: If the numbers of prompts and seeds differ or the size does not fit.
        SampleError: If a decoded image is not finite.
    """
    if settings.start != PURE_NOISE_START:
        raise ConfigError(
            f"gaussian creator t_start: wanted {PURE_NOISE_START}, found {settings.start}"
        )
    if len(prompts) != len(seeds):
        raise ShapeError(
            f"gaussian creator: wanted as many prompts as seeds, found {len(prompts)} and "
            f"{len(seeds)}"
        )
    generators = [sample_generator(seed) for seed in seeds]
    shape = latent_shape(backbone, (len(seeds), *image_size_px))
    start = draw_noise(shape, generators=generators, device=backbone.device)
    latents = denoise(backbone, start, prompts, settings=settings, generators=generators)
    return decode_images(backbone, latents)


def noise_to_start(
    backbone: DiffusionBackbone,
    latents: Tensor,
    *,
    settings: CreatorSection,
    generators: Generators = None,
) -> Tensor:
    """Noise clean latents to T: Diff-2-in-1, equation 2.

    Args:
        backbone: The frozen model; its schedule is used.
        latents: Scaled clean latents [B, C, h, w].
        settings: For ``start``.

    Returns:
        Latents at T, same shape.
    """
    noise = draw_noise(latents.shape, generators=generators, device=latents.device)
    index = backbone.schedule.noise_index(settings.start)
    return backbone.schedule.add_noise(latents, noise, index)


@torch.no_grad()
def denoise(
    backbone: DiffusionBackbone,
    noisy: Tensor,
    prompts: Sequence[str] | Tensor,
    *,
    settings: CreatorSection,
    generators: Generators = None,
    spacing: Spacing | None = None,
) -> Tensor:
    """Denoise latents from T to the end: Diff-2-in-1, equation 3, by a deterministic sampler.

    Args:
        noisy: Latents at ``settings.start``, float32 [B, C, h, w].
        prompts: B texts, or their embeddings [B, L, C].
        generators: Source of the noise added on the way when ``eta`` is above 0.
        spacing: Which timesteps, see ``NoiseSchedule.timesteps``; by default ``leading`` for ddim
            (the released sampler's list) and ``log_snr`` for dpmsolver++.

    Returns:
        Scaled clean latents, same shape.
    """
    context = prompts if isinstance(prompts, Tensor) else backbone.embed_text(prompts)
    predict = bind_prompt(backbone, context, guidance_scale=settings.guidance_scale)
    if spacing is None:
        spacing = "leading" if settings.sampler == "ddim" else "log_snr"
    timesteps = backbone.schedule.timesteps(
        start=settings.start, num_steps=settings.num_steps, spacing=spacing
    )
    if settings.sampler == "dpmsolver++":
        return dpm_solver_sample(
            noisy, timesteps=timesteps, schedule=backbone.schedule, predict=predict
        )
    return ddim_sample(
        noisy,
        timesteps=timesteps,
        schedule=backbone.schedule,
        predict=predict,
        eta=settings.eta,
        make_noise=lambda: draw_noise(noisy.shape, generators=generators, device=noisy.device),
    )


def bind_prompt(
    backbone: DiffusionBackbone, context: Tensor, *, guidance_scale: float = 1.0
) -> Predict:
    """Fix the text condition of the network, with classifier-free guidance above scale 1.

    Guidance: unconditional + scale * (conditional - unconditional), Ho & Salimans (2022),
    equation 6, with the empty prompt as the unconditional one; both halves run in one network call.

    Args:
        context: Text embeddings [B, L, C].
        guidance_scale: At least 1.

    Returns:
        A function from noisy latents and timestep to the raw prediction.
    """
    if guidance_scale == 1.0:
        return lambda latents, timestep: backbone.predict(latents, timestep, context)
    both = torch.cat([backbone.embed_text([""]).expand_as(context), context])

    def predict(latents: Tensor, timestep: int) -> Tensor:
        output = backbone.predict(torch.cat([latents, latents]), timestep, both)
        unconditional, conditional = output.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return predict
