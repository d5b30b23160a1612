"""What a host is made from: the run's choices and the backbone's shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from perception.losses.normals import NormalsLoss
    from schemas.sample import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSpec:
    """Everything that decides the shapes of an untrained method.

    Attributes:
        tasks: What it predicts, in this order.
        num_classes: Classes of each task whose labels are class ids (``semseg``,
            ``human_parts``), ids from 0.
        block_out_channels: Widths of the U-Net's levels, fine to coarse.
        level_channels: Channels of the raw maps of each pyramid level, low to high resolution.
        vae_scale_factor: Image side / latent side.
        width_ratio: Width relative to the published one; None: the widest block over 1280.
        normals_loss: Distribution of normals, for hosts that predict one.
        task_weights: Factor of a task's loss; the host's own where missing.
        encoder: ViT folder or hub name; None: one of the right width with random weights.
        context_width: Width of the U-Net's text context.
        class_embeddings: float32 [K, context_width], pooled text embeddings of the classes of
            ``semseg``; None if the host reads none.
    """

    tasks: tuple[Task, ...]
    num_classes: Mapping[Task, int]
    block_out_channels: tuple[int, ...]
    level_channels: tuple[tuple[int, ...], ...]
    vae_scale_factor: int
    width_ratio: float | None = None
    normals_loss: NormalsLoss = "angmf"
    task_weights: Mapping[Task, float] = field(default_factory=dict)
    encoder: str | None = None
    context_width: int = 0
    class_embeddings: Tensor | None = None
