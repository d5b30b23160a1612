"""Features of a batch from the frozen backbone; an image that comes back is not encoded again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perception.diffusion.latents import LatentMoments, encode_moments

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.features import FeaturePyramid
    from perception.methods.protocol import DensePredictor

_DEFAULT_CACHE_BYTES = 256 * 2**20


class FeatureExtractor:
    """Images → posterior moments (remembered) → fresh noise → one U-Net pass.

    The autoencoder's posterior of an image never changes, so it is kept by the image's content,
    least recently used out first. Posterior and schedule noise are drawn anew every time.

    Args:
        backbone: The frozen model.
        cache_bytes: Memory for moments.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        *,
        cache_bytes: int = _DEFAULT_CACHE_BYTES,
    ) -> None:
        self.backbone = backbone
        self.num_encoded = 0
        self._cache_bytes = cache_bytes
        self._used_bytes = 0
        self._moments: OrderedDict[bytes, tuple[Tensor, Tensor]] = OrderedDict()

    def extract(
        self, method: DensePredictor, images: Tensor, *, generator: torch.Generator
    ) -> FeaturePyramid:
        """Take what a method reads from a batch.

        Args:
            method: Says how its features are taken.
            images: float32 [B, 3, H, W] in [-1, 1], on the CPU.
            generator: Source of posterior and schedule noise.

        Returns:
            The features, on the backbone's device.
        """
        return method.observe(
            self.backbone, images, moments=self.moments(images), generators=generator
        )

    def moments(self, images: Tensor) -> LatentMoments:
        """Encode the images that are not remembered, and look up the others."""
        names = [_content_name(image) for image in images]
        found = {name: self._moments[name] for name in names if name in self._moments}
        missing = [row for row, name in enumerate(names) if name not in found]
        if missing:
            encoded = encode_moments(self.backbone, images[missing])
            self.num_encoded += len(missing)
            for place, row in enumerate(missing):
                found[names[row]] = encoded.mean[place], encoded.std[place]
        self._remember(names, found)
        return LatentMoments(
            mean=torch.stack([found[name][0] for name in names]),
            std=torch.stack([found[name][1] for name in names]),
        )

    def _remember(self, names: list[bytes], found: dict[bytes, tuple[Tensor, Tensor]]) -> None:
        for name in names:
            if name not in self._moments:
                # A clone: a row of a batch would keep the whole batch alive.
                mean, std = (tensor.clone() for tensor in found[name])
                self._moments[name] = mean, std
                self._used_bytes += mean.nbytes + std.nbytes
            self._moments.move_to_end(name)
        while self._used_bytes > self._cache_bytes and self._moments:
            _, (mean, std) = self._moments.popitem(last=False)
            self._used_bytes -= mean.nbytes + std.nbytes


def _content_name(image: Tensor) -> bytes:
    pixels = image.contiguous().numpy()
    return hashlib.blake2b(pixels.data, digest_size=16).digest()
