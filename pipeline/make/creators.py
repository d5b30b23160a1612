"""How synthetic images are made: a table of creators, by the names of the configuration.

A creator is a function from orders to images; one that knows their labels gives those, too, and
then they are not predicted. One that makes maps with its images gives those, and they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from perception.diffusion.halfway import synthesize_gaussian, synthesize_halfway
from pipeline.make.label import label_array
from pipeline.make.screen import is_labelled
from sources.batches import collate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from perception.creators.pairs import PairCreatorNetwork
    from perception.creators.protocol import CreatorNetwork
    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.moments import MomentsCache
    from pipeline.make.rows import ImageOrder
    from schemas.config import CreatorSection
    from schemas.sample import Task


@dataclass(frozen=True, slots=True)
class Made:
    """A batch of synthetic images.

    Attributes:
        images: uint8 RGB [B, H, W, 3].
        maps: Task to B maps that were made with the images, encoded as labels in
            :class:`schemas.sample.Sample`; no entry where there is none.
        labels: Task to B label arrays, encoded as in :class:`schemas.sample.Sample`; None for an
            image whose label the creator does not know, and no entry if it knows none.
    """

    images: NDArray[np.uint8]
    maps: Mapping[Task, Sequence[NDArray[Any]]] = field(default_factory=dict)
    labels: Mapping[Task, Sequence[NDArray[Any] | None]] = field(default_factory=dict)


class Creator(Protocol):
    """Makes a batch of synthetic images of one size."""

    def __call__(
        self,
        backbone: DiffusionBackbone,
        orders: Sequence[ImageOrder],
        *,
        settings: CreatorSection,
        moments: MomentsCache,
    ) -> Made:
        """Make one image for each order, which depends on that order alone, up to rounding.

        Args:
            orders: What to make; real images of one size.
            moments: Latents of real images encoded before; filled on the way.
        """


class LearnedCreator(Creator, Protocol):
    """A creator with weights of its own, which are a series of versions."""

    @property
    def network(self) -> nn.Module:
        """Takes the weights; used by nobody else meanwhile."""


def create_images(
    backbone: DiffusionBackbone,
    orders: Sequence[ImageOrder],
    *,
    settings: CreatorSection,
    moments: MomentsCache,
) -> Made:
    """Make a batch with the configured creator; see :class:`Creator`."""
    return CREATORS[settings.kind](backbone, orders, settings=settings, moments=moments)


def _create_halfway(
    backbone: DiffusionBackbone,
    orders: Sequence[ImageOrder],
    *,
    settings: CreatorSection,
    moments: MomentsCache,
) -> Made:
    images = synthesize_halfway(
        backbone,
        moments.encode(backbone, [order.source.image for order in orders]),
        [order.caption for order in orders],
        settings=settings,
        seeds=[order.seed for order in orders],
    )
    return Made(images)


def _create_gaussian(
    backbone: DiffusionBackbone,
    orders: Sequence[ImageOrder],
    *,
    settings: CreatorSection,
    moments: MomentsCache,  # noqa: ARG001 - part of the protocol; nothing real is kept here
) -> Made:
    height, width = orders[0].source.image.shape[:2]
    images = synthesize_gaussian(
        backbone,
        [order.caption for order in orders],
        image_size_px=(height, width),
        settings=settings,
        seeds=[order.seed for order in orders],
    )
    return Made(images)


def _take_unlabelled(
    backbone: DiffusionBackbone,  # noqa: ARG001 - part of the protocol; nothing is synthesised
    orders: Sequence[ImageOrder],
    *,
    settings: CreatorSection,  # noqa: ARG001
    moments: MomentsCache,  # noqa: ARG001
) -> Made:
    return Made(np.stack([order.source.image for order in orders]))


def _complete_labels(
    backbone: DiffusionBackbone,  # noqa: ARG001 - part of the protocol; nothing is synthesised
    orders: Sequence[ImageOrder],
    *,
    settings: CreatorSection,  # noqa: ARG001
    moments: MomentsCache,  # noqa: ARG001
) -> Made:
    """Take real images with the labels they have; a label without a valid pixel is none."""
    known = [
        {task: label for task, label in order.source.labels.items() if is_labelled(label, task)}
        for order in orders
    ]
    tasks = dict.fromkeys(task for labels in known for task in labels)
    return Made(
        images=np.stack([order.source.image for order in orders]),
        labels={task: [labels.get(task) for labels in known] for task in tasks},
    )


CREATORS: dict[str, Creator] = {
    "halfway": _create_halfway,
    "gaussian": _create_gaussian,
    "unlabelled": _take_unlabelled,
    "completion": _complete_labels,
}
"""Creators by ``creator.kind``."""


class AdaptedCreator:
    """Makes images as the configured creator does, with a denoiser that has learnt.

    Attributes:
        network: See :class:`LearnedCreator`.
    """

    def __init__(self, network: CreatorNetwork) -> None:
        self.network = network

    def __call__(
        self,
        backbone: DiffusionBackbone,
        orders: Sequence[ImageOrder],
        *,
        settings: CreatorSection,
        moments: MomentsCache,
    ) -> Made:
        """See :class:`Creator`."""
        adapted = self.network.in_place_of(backbone)
        return create_images(adapted, orders, settings=settings, moments=moments)


class PairCreator:
    """Makes pairs from noise, from real pairs, or from real labels (``creator.known``).

    Attributes:
        network: See :class:`LearnedCreator`.
    """

    def __init__(self, network: PairCreatorNetwork) -> None:
        self.network = network

    def __call__(
        self,
        backbone: DiffusionBackbone,
        orders: Sequence[ImageOrder],
        *,
        settings: CreatorSection,
        moments: MomentsCache,
    ) -> Made:
        """See :class:`Creator`; labels that are kept are the maps.

        Raises:
            SampleError: ``no_label`` if a real image lacks a label that its pair is made from.
        """
        model, known = self.network.model, settings.starts_from
        real = [order.source for order in orders]
        images, maps = model.create(
            [order.caption for order in orders],
            seeds=[order.seed for order in orders],
            settings=settings,
            known=known,
            image_size=real[0].image.shape[:2] if known == "nothing" else None,
            moments=moments.encode(backbone, [s.image for s in real]) if known == "pair" else None,
            labels=None if known == "nothing" else collate(real, model.tasks).labels,
        )
        return Made(
            images,
            {task: [label_array(task, each) for each in found] for task, found in maps.items()},
        )


LEARNED_CREATORS: dict[str, Callable[[Any], LearnedCreator]] = {
    "halfway": AdaptedCreator,
    "gaussian": AdaptedCreator,
    "jointnet": PairCreator,
    "mtdiffusion": PairCreator,
}
"""What makes a creator of the networks of ``perception.creators``, by ``creator.kind``."""
