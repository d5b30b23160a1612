"""Bae et al. (2021) on an encoder of its own: a predictor without any diffusion feature.

It is the external model of Diff-2-in-1's Table 7: what synthetic pairs are worth to someone else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EfficientNetConfig, EfficientNetModel

from perception.adapter import AdapterPlan, bae_channel_plan
from perception.heads.normals_bae import BaeNormalsHead, NormalsLevel
from perception.losses.normals import (
    NormalsLoss,
    expected_angular_error_deg,
    multi_level_normals_loss,
)
from perception.methods.protocol import (
    DensePredictor,
    Labels,
    PixelWeights,
    Predictions,
    Pyramid,
    evaluating,
)
from perception.model_loading import load_encoder
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from perception.methods.spec import MethodSpec
    from schemas.config_method import MethodSection

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_PUBLISHED_SCALING = (1.6, 2.2)
_PUBLISHED_LAST_WIDTH = 1280
_TINY_SCALING = (0.35, 0.35)
_PROBE_SIDE_PX = 64


def make(spec: MethodSpec) -> BaeEfficientNet:
    """Make the untrained model; ``spec.encoder`` names pre-trained weights, if any.

    Published is EfficientNet-B5. Without ``spec.encoder`` a backbone of the full width gets a B5
    with random weights, a narrower one a smaller EfficientNet.

    Raises:
        ConfigError: If a task other than normals is asked for, or the encoder's files are missing.
    """
    choices = spec.choices
    if choices.tasks != ("normals",):
        raise ConfigError(
            f"method.tasks = {list(choices.tasks)}: bae_efficientnet predicts normals alone; "
            "set method.tasks=[normals]"
        )
    plan = bae_channel_plan(
        spec.block_out_channels, spec.vae_scale_factor, width_ratio=choices.width_ratio
    )
    encoder = (
        load_encoder(EfficientNetModel, spec.encoder)
        if spec.encoder
        else EfficientNetModel(_encoder_config(plan))
    )
    return BaeEfficientNet(encoder, plan, choices)


def _encoder_config(plan: AdapterPlan) -> EfficientNetConfig:
    width, depth = _PUBLISHED_SCALING if plan.width_ratio >= 1 else _TINY_SCALING
    # The last layer's width follows the others; the library wants it spelt out.
    last = 8 * round(_PUBLISHED_LAST_WIDTH * width / 8)
    return EfficientNetConfig(width_coefficient=width, depth_coefficient=depth, hidden_dim=last)


def encode(encoder: Any, pixels: Tensor) -> list[Tensor]:
    """Run the encoder; the last map of every side, low to high resolution, from 1/32 to 1/2."""
    found = encoder(pixels, output_hidden_states=True)
    by_side = {each.shape[-2:]: each for each in (*found.hidden_states, found.last_hidden_state)}
    return list(by_side.values())[::-1]


class BaeEfficientNet(DensePredictor):
    """EfficientNet maps, projected to the widths that Bae's decoder reads.

    Args:
        encoder: ``EfficientNetModel``.
        plan: Widths of the decoder's inputs; the finest has half the image's side.
        choices: Section ``method`` of the configuration.
    """

    def __init__(self, encoder: Any, plan: AdapterPlan, choices: MethodSection) -> None:
        super().__init__(choices)
        self.reads_diffusion = False
        self.encoder = encoder
        self.normals_loss: NormalsLoss = choices.normals_loss
        with evaluating(encoder):
            maps = encode(encoder, torch.zeros(1, 3, _PROBE_SIDE_PX, _PROBE_SIDE_PX))
        sources = [each.shape[1] for each in maps[-len(plan.channels) :]]
        self.projections = nn.ModuleList(
            nn.Conv2d(source, width, kernel_size=1)
            for source, width in zip(sources, plan.channels, strict=True)
        )
        self.head = BaeNormalsHead(plan)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1))

    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> list[NormalsLevel]:
        """See :meth:`DensePredictor.forward_train`; labels say where normals are valid."""
        valid = None if labels is None else labels["normals"].abs().sum(dim=1) > 0
        levels: list[NormalsLevel] = self.head(
            self._maps(pyramid), valid_BHW=valid, generator=generator
        )
        return levels

    def loss(
        self, outputs: list[NormalsLevel], labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`."""
        loss = multi_level_normals_loss(
            outputs, labels["normals"], (weights or {}).get("normals"), kind=self.normals_loss
        )
        return loss, {"normals": float(loss.detach())}

    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """See :meth:`DensePredictor.predict`."""
        with evaluating(self):
            found = self.head.predict(self._maps(pyramid))
        if found.shape[-2:] != image_size:
            found = functional.interpolate(
                found, size=image_size, mode="bilinear", align_corners=True
            )
        error_deg = expected_angular_error_deg(found[:, 3:], kind=self.normals_loss)
        return Predictions(
            labels={"normals": functional.normalize(found[:, :3], dim=1)},
            reliability={"normals": error_deg},
        )

    def _maps(self, pyramid: Pyramid) -> list[Tensor]:
        if pyramid.images is None:
            raise ValueError("wanted features with their images, found none; use observe()")
        pixels = ((pyramid.images + 1) / 2 - self.mean) / self.std
        maps = encode(self.encoder, pixels)[-len(self.projections) :]
        return [project(each) for project, each in zip(self.projections, maps, strict=True)]
