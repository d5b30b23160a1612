"""What a method is made from: the run's choices and the backbone's shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perception.diffusion.features import pyramid_channels
from schemas.config_pairs import PairsSection
from schemas.paths import resolve_path
from schemas.sample import NUM_HUMAN_PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from perception.diffusion.backbone import DiffusionBackbone
    from schemas.config_method import MethodSection
    from schemas.sample import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSpec:
    """Everything that decides the shapes of an untrained method.

    Attributes:
        choices: Section ``method`` of the configuration.
        block_out_channels: Widths of the U-Net's levels, fine to coarse.
        level_channels: Channels of the raw maps of each pyramid level, low to high resolution.
        vae_scale_factor: Image side / latent side.
        context_width: Width of the U-Net's text context.
        class_embeddings: float32 [K, context_width], pooled text embeddings of the classes of
            ``semseg``; None if the run names none.
        pairs: Section ``pairs`` of the configuration.
        backbone: The frozen model, for methods that are made of copies of its networks.
    """

    choices: MethodSection
    block_out_channels: tuple[int, ...]
    level_channels: tuple[tuple[int, ...], ...]
    vae_scale_factor: int
    context_width: int = 0
    class_embeddings: Tensor | None = None
    pairs: PairsSection = field(default_factory=PairsSection)
    backbone: DiffusionBackbone | None = None

    @property
    def num_classes(self) -> Mapping[Task, int]:
        """Classes of each task whose labels are class ids, ids from 0."""
        return {"semseg": self.choices.num_classes, "human_parts": NUM_HUMAN_PARTS}

    @property
    def encoder(self) -> str | None:
        """Folder or hub name of a pre-trained encoder; None: one with random weights."""
        return None if self.choices.encoder is None else resolve_path(self.choices.encoder)


def method_spec(
    choices: MethodSection, backbone: DiffusionBackbone, pairs: PairsSection | None = None
) -> MethodSpec:
    """Join what the run chose with the backbone and its shapes.

    Args:
        pairs: Section ``pairs``; its defaults if None.
    """
    names = choices.class_names
    return MethodSpec(
        choices=choices,
        block_out_channels=backbone.block_out_channels,
        level_channels=pyramid_channels(backbone.unet.config),
        vae_scale_factor=backbone.downsample_factor,
        context_width=int(backbone.unet.config.cross_attention_dim),
        class_embeddings=backbone.embed_text(names).float().mean(dim=1) if names else None,
        pairs=pairs or PairsSection(),
        backbone=backbone,
    )
