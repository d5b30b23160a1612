"""iDisc (Piccinelli et al., 2023) as method: normals and depth by internal discretisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.adapter import scaled_width
from perception.heads.internal_discretisation import (
    InternalDiscretisation,
    fuse_depth,
    fuse_normals,
)
from perception.heads.pixel_decoder import PixelDecoder
from perception.heads.stride_pyramid import (
    NUM_STRIDES,
    StridePyramid,
    backbone_width_ratio,
    stride_plan,
)
from perception.losses.depth import silog_loss
from perception.losses.normals import NormalsLoss, expected_angular_error_deg, normals_nll
from perception.methods.protocol import (
    DensePredictor,
    Labels,
    PixelWeights,
    Predictions,
    Pyramid,
    evaluating,
)
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perception.heads.pixel_decoder import DecodedPixels
    from perception.methods.spec import MethodSpec
    from schemas.config_method import MethodSection
    from schemas.sample import Task

_PUBLISHED_LATENT_WIDTH = 128
_PUBLISHED_DEFORMABLE_LAYERS = 4
_OUT_CHANNELS: dict[Task, int] = {"normals": 4, "depth": 1}
_SMALLEST_KAPPA = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class IdiscOutputs:
    """Predictions at a quarter of the image's side; None for a task that the method lacks.

    Attributes:
        normals: [B, 4, h, w], the mean of the levels' unit normals, and kappa.
        depth_m: [B, 1, h, w], metres.
    """

    normals: Tensor | None = None
    depth_m: Tensor | None = None


def make(
    spec: MethodSpec, *, num_deformable_layers: int | None = None, use_spectral_norm: bool = True
) -> Idisc:
    """Make the untrained method for a run: normals, depth, or both.

    Args:
        spec: The run's choices and the backbone's shapes; a VAE factor of 4 or 8.
        num_deformable_layers: Of the pixel decoder; 0 is a plain feature pyramid. None: four at the
            published width, none at a tenth of it.
        use_spectral_norm: Spectral norm in the adapter's merges, as published.

    Raises:
        ConfigError: If a task is another one.
        ValueError: If the backbone does not fit.
    """
    choices = spec.choices
    wrong = [task for task in choices.tasks if task not in _OUT_CHANNELS]
    if wrong:
        raise ConfigError(
            f"method.tasks: method idisc predicts {list(_OUT_CHANNELS)}, found {wrong}; "
            "leave these tasks out, or use method bae, invpt or taskprompter"
        )
    width_ratio = backbone_width_ratio(spec.block_out_channels, choices.width_ratio)
    if num_deformable_layers is None:
        scaled = round(_PUBLISHED_DEFORMABLE_LAYERS * width_ratio)
        num_deformable_layers = min(scaled, _PUBLISHED_DEFORMABLE_LAYERS)
    adapter = StridePyramid(
        spec.level_channels,
        stride_plan(spec.vae_scale_factor, width_ratio=width_ratio),
        use_spectral_norm=use_spectral_norm,
    )
    decoder = PixelDecoder(
        (adapter.width,) * NUM_STRIDES, adapter.width, num_deformable_layers=num_deformable_layers
    )
    latent_width = scaled_width(_PUBLISHED_LATENT_WIDTH, width_ratio)
    heads = {
        task: InternalDiscretisation(adapter.width, latent_width, _OUT_CHANNELS[task])
        for task in choices.tasks
    }
    return Idisc(adapter, decoder, heads, choices)


class Idisc(DensePredictor):
    """Diff-2-in-1 on iDisc: adapter and pixel decoder shared, one head for each task.

    Args:
        adapter: Raw features to strides 32, 16, 8, 4.
        decoder: These to three levels of pixels.
        choices: Section ``method`` of the configuration; a task's factor is 1 where missing.
    """

    def __init__(
        self,
        adapter: StridePyramid,
        decoder: PixelDecoder,
        heads: Mapping[Task, InternalDiscretisation],
        choices: MethodSection,
    ) -> None:
        super().__init__(choices)
        self.normals_loss: NormalsLoss = choices.normals_loss
        self.adapter = adapter
        self.decoder = decoder
        self.heads = nn.ModuleDict({str(task): head for task, head in heads.items()})

    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> IdiscOutputs:
        """See :meth:`DensePredictor.forward_train`; nothing here is drawn at random."""
        del labels, generator
        return self._decode(pyramid)

    def loss(
        self, outputs: IdiscOutputs, labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`: AngMF on one level, SILog with λ = 0.85 (section 4.2).

        The predictions are brought to the size of the labels first.
        """
        terms: dict[Task, Tensor] = {}
        weights = weights or {}
        if outputs.normals is not None:
            wanted = labels["normals"]
            found = _resize_normals(outputs.normals, _size(wanted))
            terms["normals"] = normals_nll(
                found, wanted, weights.get("normals"), kind=self.normals_loss
            )
        if outputs.depth_m is not None:
            wanted = labels["depth"]
            found = _resize_linear(outputs.depth_m, _size(wanted))
            terms["depth"] = silog_loss(found, wanted, weights.get("depth"))
        total = torch.stack(
            [self.task_weights.get(task, 1.0) * term for task, term in terms.items()]
        ).sum()
        return total, {task: float(term.detach()) for task, term in terms.items()}

    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """See :meth:`DensePredictor.predict`.

        The head does not estimate the error of its depth: that confidence is 1 everywhere.
        """
        labels: dict[Task, Tensor] = {}
        reliability: dict[Task, Tensor] = {}
        with evaluating(self):
            outputs = self._decode(pyramid)
            if outputs.normals is not None:
                raised = _resize_normals(outputs.normals, image_size)
                labels["normals"] = functional.normalize(raised[:, :3], dim=1)
                reliability["normals"] = expected_angular_error_deg(
                    raised[:, 3:], kind=self.normals_loss
                )
            if outputs.depth_m is not None:
                labels["depth"] = _resize_linear(outputs.depth_m, image_size)
                reliability["depth"] = torch.ones_like(labels["depth"])
        return Predictions(labels=labels, reliability=reliability)

    def _decode(self, pyramid: Pyramid) -> IdiscOutputs:
        pixels: DecodedPixels = self.decoder(self.adapter(pyramid.maps))
        return IdiscOutputs(
            normals=fuse_normals(self.heads["normals"](pixels))
            if "normals" in self.tasks
            else None,
            depth_m=fuse_depth(self.heads["depth"](pixels)) if "depth" in self.tasks else None,
        )


def _size(labels: Tensor) -> tuple[int, int]:
    return labels.shape[-2], labels.shape[-1]


def _resize_linear(maps_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps_BChw, size=size, mode="bilinear", align_corners=True)


def _resize_normals(prediction: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize normals and kappa [B, 4, h, w]; a cubic overshoots, and kappa must stay positive."""
    raised = functional.interpolate(prediction, size=size, mode="bicubic", align_corners=True)
    return torch.cat([raised[:, :3], raised[:, 3:].clamp_min(_SMALLEST_KAPPA)], dim=1)
