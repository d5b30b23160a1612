"""Real images and captions to synthetic images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from perception.diffusion.halfway import HalfwaySettings, synthesize_gaussian, synthesize_halfway
from pipeline.make.rows import ImageOrder, start_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.moments import MomentsCache
    from schemas.config import CreatorSection


class Creator(Protocol):
    """Makes a batch of synthetic images of one size."""

    def __call__(
        self,
        backbone: DiffusionBackbone,
        orders: Sequence[ImageOrder],
        *,
        settings: HalfwaySettings,
        moments: MomentsCache,
    ) -> NDArray[np.uint8]:
        """Return uint8 RGB [B, H, W, 3], one image for each order."""


def create_images(
    backbone: DiffusionBackbone,
    orders: Sequence[ImageOrder],
    *,
    settings: CreatorSection,
    moments: MomentsCache,
) -> NDArray[np.uint8]:
    """Make a batch of synthetic images with the configured creator.

    Args:
        backbone: The frozen diffusion model.
        orders: What to make; real images of one size.
        settings: Creator and its parameters.
        moments: Latents of real images encoded before; filled on the way.

    Returns:
        uint8 RGB [B, H, W, 3]. An image depends on its order alone, up to rounding.
    """
    creator = CREATORS[settings.kind]
    return creator(backbone, orders, settings=sampler_settings(settings), moments=moments)


def sampler_settings(settings: CreatorSection) -> HalfwaySettings:
    """Settings of the sampler for a creator; the Gaussian one always starts from pure noise."""
    return HalfwaySettings(
        # An image that is taken as it is passes no sampler; any valid start will do.
        t_start=start_of(settings) or settings.t_start,
        num_steps=settings.num_steps,
        sampler=settings.sampler,
        guidance_scale=settings.guidance_scale,
        eta=settings.eta,
    )


def _create_halfway(
    backbone: DiffusionBackbone,
    orders: Sequence[ImageOrder],
    *,
    settings: HalfwaySettings,
    moments: MomentsCache,
) -> NDArray[np.uint8]:
    return synthesize_halfway(
        backbone,
        moments.encode(backbone, [order.source.image for order in orders]),
        [order.caption for order in orders],
        settings=settings,
        seeds=[order.seed for order in orders],
    )


def _create_gaussian(
    backbone: DiffusionBackbone,
    orders: Sequence[ImageOrder],
    *,
    settings: HalfwaySettings,
    moments: MomentsCache,  # noqa: ARG001 - part of the protocol; nothing real is kept here
) -> NDArray[np.uint8]:
    height, width = orders[0].source.image.shape[:2]
    return synthesize_gaussian(
        backbone,
        [order.caption for order in orders],
        image_size_px=(height, width),
        settings=settings,
        seeds=[order.seed for order in orders],
    )


def _take_unlabelled(
    backbone: DiffusionBackbone,  # noqa: ARG001 - part of the protocol; nothing is synthesised
    orders: Sequence[ImageOrder],
    *,
    settings: HalfwaySettings,  # noqa: ARG001
    moments: MomentsCache,  # noqa: ARG001
) -> NDArray[np.uint8]:
    return np.stack([order.source.image for order in orders])


CREATORS: dict[str, Creator] = {
    "halfway": _create_halfway,
    "gaussian": _create_gaussian,
    "unlabelled": _take_unlabelled,
}
