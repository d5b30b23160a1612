"""Images to latents and back through the frozen autoencoder.

Shape letters: B batch, C latent channels, H W image pixels, h w latent pixels (H, W divided by the
backbone's downsample factor).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.seeding import Generators, draw_noise
from perception.shapes import ShapeError, expect_shape
from schemas.errors import SampleError

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone

Posterior = Literal["sample", "mode"]
Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8] | Tensor
"""uint8 RGB [H, W, 3] arrays of one size, the same stacked to [B, H, W, 3], or a float tensor
[B, 3, H, W] in [-1, 1]."""


def images_to_tensor(images: Images, *, device: torch.device | str = "cpu") -> Tensor:
    """Turn uint8 images into what the autoencoder reads.

    Args:
        images: See ``Images``; a float tensor is passed through.

    Returns:
        float32 [B, 3, H, W] in [-1, 1].

    Raises:
        ShapeError: If the images are not RGB, not uint8, or differ in size.
    """
    if isinstance(images, Tensor):
        expect_shape(images, "B 3 H W", name="images")
        if not images.is_floating_point():
            raise ShapeError(f"images: wanted a float tensor in [-1, 1], found {images.dtype}")
        return images.to(device=device, dtype=torch.float32)
    sizes = {image.shape for image in images}
    if len(sizes) != 1:
        raise ShapeError(f"images: wanted one size for the whole batch, found {sorted(sizes)}")
    stacked = np.stack(list(images))
    expect_shape(stacked, "B H W 3", name="images")
    if stacked.dtype != np.uint8:
        raise ShapeError(f"images: wanted uint8 values, found {stacked.dtype}")
    pixels = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1


def tensor_to_images(pixels: Tensor) -> NDArray[np.uint8]:
    """Turn [B, 3, H, W] in [-1, 1] (clipped) into uint8 RGB [B, H, W, 3]."""
    scaled = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


@torch.no_grad()
def encode_moments(backbone: DiffusionBackbone, images: Images) -> LatentMoments:
    """Run the encoder once; everything drawn from an image afterwards starts from the result.

    Args:
        images: See ``Images``; H and W divisible by the backbone's downsample factor.

    Returns:
        Mean and standard deviation of the latents' posterior.

    Raises:
        ShapeError: If the size does not fit the autoencoder.
    """
    pixels = images_to_tensor(images, device=backbone.device)
    latent_shape(backbone, (len(pixels), *pixels.shape[-2:]))
    pixels = pixels.to(backbone.dtype, memory_format=torch.channels_last)
    posterior = backbone.vae.encode(pixels).latent_dist
    return LatentMoments(mean=posterior.mean.float(), std=posterior.std.float())


def latent_shape(
    backbone: DiffusionBackbone, batch_height_width: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    """Return the shape [B, C, h, w] of the latents of B images of a size in pixels.

    Raises:
        ShapeError: If the size is not divisible by the backbone's downsample factor.
    """
    batch, height, width = batch_height_width
    factor = backbone.downsample_factor
    if height % factor or width % factor:
        raise ShapeError(
            f"images: wanted height and width divisible by {factor}, found {(height, width)}; "
            "resize or pad them"
        )
    return batch, backbone.latent_channels, height // factor, width // factor


def encode_latents(
    backbone: DiffusionBackbone,
    images: Images | LatentMoments,
    *,
    posterior: Posterior = "sample",
    generators: Generators = None,
) -> Tensor:
    """Encode images to scaled latents.

    Args:
        images: Images, or moments encoded before.
        posterior: Draw from the posterior, or take its mean.
        generators: Source of the posterior noise; not touched for ``mode``.

    Returns:
        float32 [B, C, h, w], multiplied by the scaling factor.
    """
    moments = images if isinstance(images, LatentMoments) else encode_moments(backbone, images)
    return moments.draw(posterior=posterior, generators=generators) * backbone.scaling_factor


@torch.no_grad()
def decode_images(backbone: DiffusionBackbone, latents: Tensor) -> NDArray[np.uint8]:
    """Decode scaled latents.

    Args:
        latents: Scaled latents [B, C, h, w].

    Returns:
        uint8 RGB [B, H, W, 3].

    Raises:
        SampleError: If a decoded image is not finite (reason ``not_finite``).
    """
    expect_shape(latents, f"B {backbone.latent_channels} h w", name="latents")
    unscaled = (latents / backbone.scaling_factor).to(
        backbone.dtype, memory_format=torch.channels_last
    )
    pixels = backbone.vae.decode(unscaled, return_dict=False)[0].float()
    bad = (~pixels.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise SampleError(
            "not_finite",
            f"decoded images {bad} of a batch of {len(pixels)} hold NaN or infinity; "
            "try float32 instead of the backbone's dtype",
        )
    return tensor_to_images(pixels)


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentMoments:
    """Posterior of the latents of B images, so that the encoder runs once per image.

    Attributes:
        mean: Unscaled means, float32 [B, C, h, w].
        std: Standard deviations, same shape.
    """

    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.mean)

    def select(self, rows: slice | Sequence[int]) -> LatentMoments:
        """Return the moments of some of the images."""
        return LatentMoments(mean=self.mean[rows], std=self.std[rows])

    def draw(self, *, posterior: Posterior = "sample", generators: Generators = None) -> Tensor:
        """Return unscaled latents: the mean, or the mean plus noise of the posterior's width."""
        if posterior == "mode":
            return self.mean
        noise = draw_noise(self.mean.shape, generators=generators, device=self.mean.device)
        return self.mean + self.std * noise
