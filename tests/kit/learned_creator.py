"""A creator with weights of its own: a few numbers that colour the image and tilt its map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from perception.build import make_creator_network
from perception.diffusion.backbone import DiffusionBackbone
from perception.state_file import keys_digest, state_to_bytes
from pipeline.make.creators import Made
from pipeline.make.rows import ImageOrder
from schemas.config import RunConfig
from schemas.weights import WeightsManifest
from storage.files.stores import open_store
from storage.records.weights import publish_weights
from tests.kit.tiny_models import tiny_backbone


class Tint(nn.Module):
    """Holds a colour and the direction of the map's normals."""

    def __init__(self, strength: float = 0.0) -> None:
        super().__init__()
        self.colour = nn.Parameter(torch.full((3,), strength))
        self.direction = nn.Parameter(torch.tensor([strength, 0.5, 1.0]))


class TintCreator:
    """Adds noise and the network's colour to the real image, and makes a map of one direction."""

    def __init__(self) -> None:
        self.network = Tint()
        self.made = 0

    def __call__(self, backbone: DiffusionBackbone, orders: Sequence[ImageOrder], **_: Any) -> Made:
        self.made += len(orders)
        images = np.stack([_tinted(order, self.network) for order in orders])
        direction = self.network.direction.numpy()
        plane = np.broadcast_to(direction, images.shape).astype(np.float32)
        return Made(images, {"normals": list(plane / np.linalg.norm(direction))})


def publish_creator(
    config: RunConfig, version: int, *, backbone: DiffusionBackbone | None = None
) -> WeightsManifest:
    """Publish a version of the creator's weights; another image and map for each."""
    network = Tint(strength=0.1 * (version + 1))
    return _publish(config, network, version, backbone or tiny_backbone())


def publish_denoiser(config: RunConfig, version: int, *, shift: float = 0.0) -> WeightsManifest:
    """Publish the initial weights of a run's denoiser; ``shift`` is added to each of them."""
    network = make_creator_network(config, tiny_backbone())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(shift)
    return _publish(config, network, version, tiny_backbone())


def _publish(
    config: RunConfig, network: nn.Module, version: int, backbone: DiffusionBackbone
) -> WeightsManifest:
    return publish_weights(
        open_store(config.run.url),
        state_to_bytes(network),
        series="creator",
        version=version,
        step=version * 10,
        seen_images=0,
        ema_decay=0.998,
        base_model_hash=backbone.model_id,
        keys_hash=keys_digest(network),
        stage="creator",
        parent=version - 1,
    )


def _tinted(order: ImageOrder, network: Tint) -> np.ndarray:
    noise = np.random.default_rng(order.seed).integers(0, 16, order.source.image.shape)
    shift = 255 * network.colour.numpy()
    return np.clip(order.source.image + noise + shift, 0, 255).astype(np.uint8)
