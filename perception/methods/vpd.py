"""VPD (Zhao et al., 2023) as method: the U-Net reads learnt text tokens; segmentation and depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.adapter import scaled_width
from perception.diffusion.attention_maps import run_with_context
from perception.diffusion.features import FeaturePyramid
from perception.diffusion.latents import encode_moments
from perception.heads.semantic_fpn import FeaturePyramidNeck, SemanticFpnHead
from perception.heads.stride_pyramid import backbone_width_ratio
from perception.heads.vpd_depth import VpdDepthHead
from perception.losses.depth import vpd_silog_loss
from perception.losses.segmentation import cross_entropy_loss
from perception.methods.protocol import (
    DensePredictor,
    Labels,
    PixelWeights,
    Predictions,
    Pyramid,
    evaluating,
)
from perception.methods.raw_outputs import class_prediction
from perception.seeding import draw_noise
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.features import FeatureSettings
    from perception.diffusion.latents import LatentMoments
    from perception.methods.spec import MethodSpec
    from perception.seeding import Generators
    from schemas.sample import Task

ATTENTION_LEVELS = (1, 2)
"""Levels whose cross-attention is read: sides 16 and 32 of Stable Diffusion's 64."""

_TASKS: tuple[Task, ...] = ("semseg", "depth")
_PUBLISHED_NECK_WIDTH = 256
_START_GAMMA = 1e-4
_MAX_DEPTH_M = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VpdOutputs:
    """Training predictions; None for a task that the method lacks.

    Attributes:
        semseg: Logits [B, K, h, w] at the latent's side.
        depth_m: [B, 1, H, W], metres, at the image's side.
    """

    semseg: Tensor | None = None
    depth_m: Tensor | None = None


def make(spec: MethodSpec, *, max_depth_m: float = _MAX_DEPTH_M) -> Vpd:
    """Make the untrained method for a run: semseg, depth, or both.

    Each task has its own text tokens and its own U-Net pass.

    Args:
        spec: The run's choices and the backbone's shapes; semseg needs its class embeddings.
        max_depth_m: Depth that the sigmoid tends to; 10 m as published for indoor scenes.

    Raises:
        ConfigError: If a task is another one, or the classes have no embeddings.
    """
    choices = spec.choices
    wrong = [task for task in choices.tasks if task not in _TASKS]
    if wrong:
        raise ConfigError(
            f"method.tasks: method vpd predicts {list(_TASKS)}, found {wrong}; "
            "leave these tasks out, or use another method"
        )
    up_channels = [level[-1] for level in spec.level_channels]
    width_ratio = backbone_width_ratio(spec.block_out_channels, choices.width_ratio)
    refiners: dict[Task, TokenRefiner] = {}
    heads: dict[Task, nn.Module] = {}
    for task in choices.tasks:
        refiners[task] = TokenRefiner(spec.context_width)
        if task == "depth":
            heads[task] = VpdDepthHead(
                up_channels, width_ratio=width_ratio, max_depth_m=max_depth_m
            )
        else:
            num_classes = choices.num_classes
            _expect_embeddings(spec.class_embeddings, num_classes, spec.context_width)
            neck_width = scaled_width(_PUBLISHED_NECK_WIDTH, width_ratio)
            channels = segmentation_channels(up_channels, num_classes)
            heads[task] = nn.Sequential(
                FeaturePyramidNeck(channels, neck_width),
                SemanticFpnHead(len(channels), neck_width, num_classes),
            )
    return Vpd(heads, refiners, spec)


def segmentation_channels(up_channels: Sequence[int], num_classes: int) -> tuple[int, ...]:
    """Channels of what the segmentation neck reads, low to high resolution.

    Stable Diffusion with 150 classes: 1280, 1430, 790, 320.
    """
    return tuple(
        channels + (num_classes if level in ATTENTION_LEVELS else 0)
        for level, channels in enumerate(up_channels)
    )


def _expect_embeddings(embeddings: Tensor | None, num_classes: int, context_width: int) -> None:
    found = None if embeddings is None else tuple(embeddings.shape)
    if found != (num_classes, context_width):
        raise ConfigError(
            f"method.class_names: vpd reads one name for each of the {num_classes} classes of "
            f"semseg (embeddings of shape {(num_classes, context_width)}), found {found}; set "
            "method.class_names, in the order of the ids, and method.num_classes to their number"
        )


class TokenRefiner(nn.Module):
    """Text tokens adapted to the task: c ← c + γ ⊙ MLP(c), γ from 1e-4 (VPD, Eq. 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.gamma = nn.Parameter(torch.full((width,), _START_GAMMA))

    def forward(self, tokens: Tensor) -> Tensor:
        """Refine tokens [..., width]."""
        refined: Tensor = tokens + self.gamma * self.network(tokens)
        return refined


class Vpd(DensePredictor):
    """Diff-2-in-1 on VPD: features depend on learnt tokens, so they belong to the weights.

    Segmentation runs the U-Net with one token per class as its whole context, and reads the up path
    and the cross-attention of ``ATTENTION_LEVELS``. Depth runs it with the tokens of the empty
    prompt in place of VPD's embedding of the scene type, which few data sets state.

    Args:
        refiners: Task to the refiner of its tokens.
        spec: The run's choices, with the embeddings of the classes; a task's factor is 1 where
            missing.
    """

    shares_features = False

    def __init__(
        self,
        heads: Mapping[Task, nn.Module],
        refiners: Mapping[Task, TokenRefiner],
        spec: MethodSpec,
    ) -> None:
        super().__init__(spec.choices)
        self.vae_scale_factor = spec.vae_scale_factor
        self.heads = nn.ModuleDict({str(task): head for task, head in heads.items()})
        self.refiners = nn.ModuleDict({str(task): each for task, each in refiners.items()})
        if "semseg" in self.tasks:
            self.class_embeddings: Tensor
            self.register_buffer("class_embeddings", spec.class_embeddings)

    def observe(
        self,
        backbone: DiffusionBackbone,
        images: Tensor,
        *,
        moments: LatentMoments | None = None,
        generators: Generators = None,
    ) -> FeaturePyramid:
        """See :meth:`DensePredictor.observe`; gradients reach the refiners through the U-Net.

        Returns:
            Levels low to high resolution. A level holds, if semseg is predicted, the last map of
            its up path and, at ``ATTENTION_LEVELS``, the attention map [B, K, h, w]; then, if depth
            is predicted, the last map of depth's own pass.
        """
        pixels = images.to(backbone.device)
        if moments is None:
            moments = encode_moments(backbone, pixels)
        latents = clean_latents(backbone, moments, self.feature_settings, generators)
        timestep = self.feature_settings.timestep
        levels: list[list[Tensor]] = [[] for _ in backbone.block_out_channels]
        if "semseg" in self.tasks:
            tokens = self.refiners["semseg"](self.class_embeddings)
            context = tokens.expand(len(latents), -1, -1)
            maps, attention = run_with_context(
                backbone,
                latents,
                timestep,
                context,
                attention_levels=ATTENTION_LEVELS,
                tuned=self.tuned_unet,
            )
            for level, found in enumerate(maps):
                levels[level] += [found[-1]]
                levels[level] += [attention[level]] if level in attention else []
        if "depth" in self.tasks:
            tokens = self.refiners["depth"](backbone.embed_text([""]).float())
            context = tokens.expand(len(latents), -1, -1)
            maps, _ = run_with_context(backbone, latents, timestep, context, tuned=self.tuned_unet)
            for level, found in enumerate(maps):
                levels[level].append(found[-1])
        return FeaturePyramid(tuple(tuple(level) for level in levels), images=pixels)

    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> VpdOutputs:
        """See :meth:`DensePredictor.forward_train`; dropout draws from torch's global state."""
        del labels, generator
        height, width = pyramid.maps[-1][0].shape[-2:]
        size = (height * self.vae_scale_factor, width * self.vae_scale_factor)
        return VpdOutputs(
            semseg=self._classify(pyramid) if "semseg" in self.tasks else None,
            depth_m=self._measure(pyramid, size) if "depth" in self.tasks else None,
        )

    def loss(
        self, outputs: VpdOutputs, labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`: cross-entropy, VPD's SILog."""
        terms: dict[Task, Tensor] = {}
        weights = weights or {}
        if outputs.semseg is not None:
            ids = labels["semseg"]
            logits = _resize(outputs.semseg, (ids.shape[-2], ids.shape[-1]))
            terms["semseg"] = cross_entropy_loss(logits, ids, weights.get("semseg"))
        if outputs.depth_m is not None:
            terms["depth"] = vpd_silog_loss(outputs.depth_m, labels["depth"], weights.get("depth"))
        total = torch.stack(
            [self.task_weights.get(task, 1.0) * term for task, term in terms.items()]
        ).sum()
        return total, {task: float(term.detach()) for task, term in terms.items()}

    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """See :meth:`DensePredictor.predict`.

        Confidence: the largest class probability; the depth head does not estimate its error, so
        depth has 1 everywhere.
        """
        labels: dict[Task, Tensor] = {}
        reliability: dict[Task, Tensor] = {}
        with evaluating(self):
            if "semseg" in self.tasks:
                logits = _resize(self._classify(pyramid), image_size)
                labels["semseg"], reliability["semseg"] = class_prediction(logits)
            if "depth" in self.tasks:
                labels["depth"] = self._measure(pyramid, image_size)
                reliability["depth"] = torch.ones_like(labels["depth"])
        return Predictions(labels=labels, reliability=reliability)

    def _classify(self, pyramid: Pyramid) -> Tensor:
        levels = pyramid.maps
        if "depth" in self.tasks:
            levels = [level[:-1] for level in levels]
        logits: Tensor = self.heads["semseg"]([torch.cat([*m], dim=1).float() for m in levels])
        return logits

    def _measure(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Tensor:
        maps = [level[-1].float() for level in pyramid.maps]
        depth_m: Tensor = self.heads["depth"](maps, image_size)
        return depth_m


def clean_latents(
    backbone: DiffusionBackbone,
    moments: LatentMoments,
    settings: FeatureSettings,
    generators: Generators,
) -> Tensor:
    """Make the latents that the U-Net sees, as the settings say; float32 [B, C, h, w]."""
    latents = moments.draw(posterior=settings.posterior, generators=generators)
    if settings.scale_latents:
        latents = latents * backbone.scaling_factor
    if settings.add_noise:
        noise = draw_noise(latents.shape, generators=generators, device=latents.device)
        latents = backbone.schedule.add_noise(latents, noise, settings.timestep)
    return latents


def _resize(maps_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps_BChw, size=size, mode="bilinear", align_corners=False)
