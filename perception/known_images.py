"""What images a small backbone knows, by how well its autoencoder restores an image.

A backbone that was trained on one kind of image alone says so in ``known_images.json`` of its
folder: what they are, their size, and the PSNR that 99 % of them exceed when they are encoded and
decoded.
Images of another kind are restored worse, and so a set of which many stay below it is foreign:
captions, synthetic images and labels of such images are wrong, and sure of themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from perception.diffusion.latents import images_to_tensor
from perception.model_files import read_json
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from perception.diffusion.backbone import DiffusionBackbone

KNOWN_IMAGES_FILE = "known_images.json"
FOREIGN_SHARE = 0.25
"""A set is foreign if a greater share of it stays below the limit, which 1 % of known images do."""

_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownImages:
    """Content of ``known_images.json``.

    Attributes:
        what: The images, in words.
        image_size: Height and width at which they are compared.
        least_psnr_db: Exceeded by 99 % of them.
    """

    what: str
    image_size: tuple[int, int]
    least_psnr_db: float

    def count_foreign(
        self, backbone: DiffusionBackbone, images: Sequence[NDArray[np.uint8]]
    ) -> int:
        """How many images are restored worse than almost all that the backbone knows."""
        found = restoration_db(backbone, images, self.image_size)
        return sum(value < self.least_psnr_db for value in found)

    def describe(self, num_foreign: int, num_looked_at: int) -> str | None:
        """Say that images are foreign, with what to do; None if they are not."""
        if num_foreign <= FOREIGN_SHARE * num_looked_at:
            return None
        return (
            f"{num_foreign} of {num_looked_at} images looked at are unlike what the models know "
            f"({self.what}): captions, synthetic images and labels will be wrong, and confident "
            "all the same; take models that know such images (model.diffusion, "
            "model.captioner_path; docs/full_size.md)"
        )


def read_known_images(folder: str | Path) -> KnownImages | None:
    """What a backbone's folder says of the images it knows; None if it says nothing.

    Raises:
        ConfigError: If the file is malformed.
    """
    path = Path(folder) / KNOWN_IMAGES_FILE
    if not path.is_file():
        return None
    found = read_json(path)
    try:
        height, width = (int(side) for side in found["image_size"])
        limit = float(found["least_psnr_db"])
        what = str(found["what"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: wanted what, image_size and least_psnr_db, found {str(found)[:200]}; copy "
            "the file again, or remove it"
        ) from error
    if not (1 <= height <= 1024 and 1 <= width <= 1024 and math.isfinite(limit)):
        raise ConfigError(f"{path}: wanted sides up to 1024 and a number, found {str(found)[:200]}")
    return KnownImages(what=what, image_size=(height, width), least_psnr_db=limit)


@torch.no_grad()
def restoration_db(
    backbone: DiffusionBackbone, images: Sequence[NDArray[np.uint8]], image_size: tuple[int, int]
) -> list[float]:
    """PSNR of images after the autoencoder, at a given size.

    Args:
        images: uint8 RGB [H, W, 3] arrays of any sizes; they are stretched to ``image_size``.
    """
    found: list[float] = []
    for first in range(0, len(images), _BATCH):
        pixels = torch.cat(
            [
                functional.interpolate(images_to_tensor([image]), image_size, mode="area")
                for image in images[first : first + _BATCH]
            ]
        ).to(backbone.device)
        latents = backbone.vae.encode(pixels.to(backbone.dtype)).latent_dist.mean
        restored = backbone.vae.decode(latents).sample.float().clamp(-1, 1)
        error = (restored - pixels).square().mean(dim=(1, 2, 3)).clamp_min(1e-12)
        found += (10 * torch.log10(4 / error)).tolist()
    return found
