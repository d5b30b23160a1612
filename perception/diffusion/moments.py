"""Latents of images that come back are not encoded again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from cachetools import LRUCache

from perception.diffusion.latents import LatentMoments, encode_moments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from perception.diffusion.backbone import DiffusionBackbone


class MomentsCache:
    """Remembers the autoencoder's posterior of images by their content.

    The posterior of an image never changes; noise is drawn from it anew every time. The least
    recently used images are forgotten first. One cache serves one backbone.

    Args:
        max_bytes: Most bytes held; an image that is larger is held alone.

    Attributes:
        num_encoded: Images that went through the encoder.
    """

    def __init__(self, *, max_bytes: int = 256 * 2**20) -> None:
        self.num_encoded = 0
        self._held: LRUCache[bytes, LatentMoments] = LRUCache(
            max_bytes, getsizeof=lambda held: min(held.mean.nbytes + held.std.nbytes, max_bytes)
        )

    def __len__(self) -> int:
        """Return the number of images held."""
        return len(self._held)

    def encode(
        self, backbone: DiffusionBackbone, images: Sequence[NDArray[np.uint8]] | Tensor
    ) -> LatentMoments:
        """Encode the images that are not remembered, and look up the others.

        An encoder rounds by the size of its batch. Arrays are encoded once each, however often a
        list names them; the rows of a tensor as they come.

        Args:
            images: Of one size: uint8 RGB [H, W, 3], or a float tensor [B, 3, H, W] in [-1, 1].

        Returns:
            Moments of the images, in their order.
        """
        names = [_content_name(image) for image in images]
        found = {name: self._held[name] for name in names if name in self._held}
        missing = [row for row, name in enumerate(names) if name not in found]
        if not isinstance(images, torch.Tensor):
            missing = sorted({names[row]: row for row in missing}.values())
        if missing:
            chosen = (
                images[missing]
                if isinstance(images, torch.Tensor)
                else [images[i] for i in missing]
            )
            encoded = encode_moments(backbone, chosen)
            self.num_encoded += len(missing)
            # Selected as copies: a row of a batch would keep the whole batch alive.
            found |= {names[row]: encoded.select([i]) for i, row in enumerate(missing)}
        for name in names:
            self._held[name] = found[name]
        moments = [found[name] for name in names]
        return LatentMoments(
            mean=torch.cat([each.mean for each in moments]),
            std=torch.cat([each.std for each in moments]),
        )


def _content_name(image: NDArray[np.uint8] | Tensor) -> bytes:
    pixels = np.ascontiguousarray(image)
    digest = hashlib.blake2b(repr((pixels.shape, pixels.dtype.str)).encode(), digest_size=16)
    digest.update(pixels.data)
    return digest.digest()
