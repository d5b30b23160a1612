"""DiffusionMTL (Ye & Xu, 2024): predictions of a plain multi-task network are noised and denoised.

Made for images that have labels of some tasks only: the chain is learnt where a label exists, in
the sight of the predictions of all tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perception.heads.initial_decoder import InitialDecoder, JoinedStages
from perception.heads.mtdnet import MTDNet
from perception.heads.task_outputs import finish_outputs
from perception.losses.multi_task import MULTI_TASK_WEIGHTS, multi_task_loss
from perception.losses.per_image import (
    image_weights,
    labelled_images,
    losses_of_images,
    mean_over_images,
    of_rows,
)
from perception.merge import DiffusionMerge
from perception.methods.on_vit import channels_of, image_size, width_ratio_of
from perception.methods.protocol import DensePredictor, evaluating
from perception.methods.raw_outputs import multi_task_predictions
from perception.resnet import ResNetEncoder, make_resnet
from perception.seeding import draw_noise, draw_seeds, sample_generator, sample_seed
from perception.vit import expect_images, host_width, prepare_images
from schemas.config_method import DiffusionMtlSection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perception.heads.mtdnet import Noise
    from perception.methods.protocol import Labels, PixelWeights, Predictions, Pyramid
    from perception.methods.spec import MethodSpec
    from schemas.config_method import MethodSection
    from schemas.sample import Task

STRIDE = 8
"""Side of an image / side of the task maps."""

_PUBLISHED_WIDTH = 512
_NUM_INITIAL_BLOCKS = 2
_NUM_BASELINE_BLOCKS = 6
_SMALLEST_COUNT = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionMtlOutputs:
    """Raw outputs at the images' size, as ``multi_task_loss`` reads them.

    Attributes:
        final: Task to the outputs of the chain, [R, C, H, W], of the images in ``rows``.
        initial: Task to the initial outputs of all images, [B, C, H, W].
        rows: Task to int64 [R], rising; tasks without any are missing here and in ``final``.
    """

    final: dict[Task, Tensor]
    initial: dict[Task, Tensor]
    rows: dict[Task, Tensor]


def make(spec: MethodSpec, *, use_spectral_norm: bool = True) -> DiffusionMtl:
    """Make the untrained method: published widths at ratio 1, scaled otherwise.

    Args:
        spec: The run's choices and the backbone's shapes.
        use_spectral_norm: Spectral norm in the adapter's merges, as published.

    Raises:
        ConfigError: If ``spec.encoder`` names no ResNet, or the heads do not divide the width.
        ValueError: If the backbone does not have four levels, or a number of classes is missing.
    """
    ratio, channels = width_ratio_of(spec), channels_of(spec)
    options = spec.choices.diffusionmtl or DiffusionMtlSection()
    width = host_width(_PUBLISHED_WIDTH, ratio)
    encoder = ResNetEncoder(make_resnet(spec.encoder, width_ratio=ratio))
    is_baseline = options.variant == "baseline"
    merge = None
    if spec.choices.reads_diffusion:
        merge = DiffusionMerge(
            spec.level_channels,
            width,
            patch_size=STRIDE,
            vae_scale_factor=spec.vae_scale_factor,
            width_ratio=ratio,
            starts_at_zero=spec.encoder is not None,
            use_spectral_norm=use_spectral_norm,
        )
    return DiffusionMtl(
        encoder,
        JoinedStages(encoder.widths, width),
        merge,
        InitialDecoder(
            channels, width, _NUM_BASELINE_BLOCKS if is_baseline else _NUM_INITIAL_BLOCKS
        ),
        None if is_baseline else MTDNet(channels, width, options),
        spec.choices,
    )


def all_rows(outputs: Mapping[Task, Tensor]) -> dict[Task, Tensor]:
    """Name all images of a batch for every task."""
    return {task: torch.arange(len(each), device=each.device) for task, each in outputs.items()}


def rows_with_labels(labels: Labels, tasks: Sequence[Task]) -> dict[Task, Tensor]:
    """Name the images that have labels of a task; tasks that no image has are left out."""
    labelled = labelled_images(labels, tasks)
    found = {task: each.nonzero().flatten() for task, each in zip(tasks, labelled, strict=True)}
    return {task: rows for task, rows in found.items() if len(rows)}


def noise_of_step(generator: torch.Generator | None, *, device: torch.device) -> Noise:
    """Make the noise of a training step, drawn where it is used: maps of full size are large."""
    own = torch.Generator(device).manual_seed(int(draw_seeds(generator, 1)))

    def draw(_task: Task, _step: int, rows: Tensor) -> Tensor:
        return draw_noise(rows.shape, generators=own, device=rows.device)

    return draw


def noise_of_images(seeds: Sequence[int]) -> Noise:
    """Make the noise of a prediction: of each image, task and step by itself."""

    def draw(task: Task, step: int, rows: Tensor) -> Tensor:
        own = [sample_generator(sample_seed(str(seed), task, step)) for seed in seeds]
        return draw_noise(rows.shape, generators=own, device=rows.device)

    return draw


class DiffusionMtl(DensePredictor):
    """A ResNet, initial predictions of all tasks, and their denoiser.

    Args:
        embed: The ResNet's maps to the map that the decoder reads.
        merge: Diffusion maps to that map's size and width; None: none are read.
        decoder: That map to features and raw outputs of all tasks.
        denoiser: None: the initial outputs are final.
        choices: Section ``method`` of the configuration.
    """

    def __init__(
        self,
        encoder: ResNetEncoder,
        embed: JoinedStages,
        merge: DiffusionMerge | None,
        decoder: InitialDecoder,
        denoiser: MTDNet | None,
        choices: MethodSection,
    ) -> None:
        super().__init__(choices)
        self.options = choices.diffusionmtl or DiffusionMtlSection()
        self.encoder = encoder
        self.embed = embed
        self.merge = merge
        self.decoder = decoder
        self.denoiser = denoiser
        self._initial_weight = 0.0 if denoiser is None else self.options.initial_weight
        self.predicts_from_noise = denoiser is not None and self.options.adds_noise

    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> DiffusionMtlOutputs:
        """See :meth:`DensePredictor.forward_train`; only maps with labels are denoised.

        Args:
            labels: None: all maps have some.
        """
        features, initial = self.decoder(self.embedded(pyramid))
        rows = all_rows(initial)
        final = initial
        if self.denoiser is not None:
            rows = rows if labels is None else rows_with_labels(labels, self.tasks)
            noise = noise_of_step(generator, device=expect_images(pyramid.images).device)
            final = self.denoiser(features, initial, rows, noise)
        size = image_size(pyramid)
        return DiffusionMtlOutputs(
            final=finish_outputs(final, size), initial=finish_outputs(initial, size), rows=rows
        )

    def loss(
        self, outputs: DiffusionMtlOutputs, labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`: Σ_t w_t (final + λ initial); terms: the final.

        The baseline's outputs count once. With ``loss_mean: image`` each image weighs the same
        (``mean_over_images``), with ``batch`` each pixel.
        """
        losses = self._of_images if self.options.loss_mean == "image" else self._of_pixels
        return losses(outputs, labels, weights or {}, MULTI_TASK_WEIGHTS | dict(self.task_weights))

    def _of_images(
        self,
        outputs: DiffusionMtlOutputs,
        labels: Labels,
        weights: PixelWeights,
        factors: Mapping[Task, float],
    ) -> tuple[Tensor, dict[str, float]]:
        everything = all_rows(outputs.initial)
        final = losses_of_images(outputs.final, outputs.rows, labels, self.tasks, weights=weights)
        initial = losses_of_images(outputs.initial, everything, labels, self.tasks, weights=weights)
        of_tasks = final.new_tensor([factors[task] for task in self.tasks]).unsqueeze(1)
        shares = image_weights(labels, self.tasks, weights)
        loss = mean_over_images(
            of_tasks * (final + self._initial_weight * initial),
            labelled_images(labels, self.tasks),
            shares,
        )
        means = (shares * final.detach()).sum(dim=1) / shares.sum(dim=1).clamp_min(_SMALLEST_COUNT)
        return loss, dict(zip(self.tasks, means.tolist(), strict=True))

    def _of_pixels(
        self,
        outputs: DiffusionMtlOutputs,
        labels: Labels,
        weights: PixelWeights,
        factors: Mapping[Task, float],
    ) -> tuple[Tensor, dict[str, float]]:
        loss, _ = multi_task_loss(outputs.initial, labels, task_weights=factors, weights=weights)
        loss = self._initial_weight * loss
        terms: dict[str, float] = dict.fromkeys(self.tasks, 0.0)
        if outputs.final:
            final, found = multi_task_loss(
                outputs.final,
                of_rows(labels, outputs.rows),
                task_weights=factors,
                weights=of_rows(weights, outputs.rows),
            )
            return loss + final, terms | found
        return loss, terms

    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """See :meth:`DensePredictor.predict`."""
        with evaluating(self):
            return multi_task_predictions(finish_outputs(self.raw_outputs(pyramid), image_size))

    def raw_outputs(self, pyramid: Pyramid) -> dict[Task, Tensor]:
        """Return the chain's outputs [B, C, h, w], with the noise of the images' own seeds.

        Where ``options.predicts`` is ``initial``: what the chain starts from.
        """
        features, initial = self.decoder(self.embedded(pyramid))
        if self.denoiser is None or self.options.predicts == "initial":
            return initial
        num_images = len(expect_images(pyramid.images))
        seeds = [0] * num_images if pyramid.seeds is None else pyramid.seeds.tolist()
        return self.denoiser(features, initial, all_rows(initial), noise_of_images(seeds))

    def initial_outputs(self, pyramid: Pyramid) -> dict[Task, Tensor]:
        """Return what the chain starts from, [B, C, h, w]; ``finish_outputs`` reads it."""
        _, initial = self.decoder(self.embedded(pyramid))
        return initial

    def embedded(self, pyramid: Pyramid) -> Tensor:
        """Return the ResNet's maps joined, plus diffusion features, [B, W, h, w] at stride 8."""
        images = prepare_images(expect_images(pyramid.images), STRIDE)
        found: Tensor = self.embed(self.encoder(images))
        if self.merge is None:
            return found
        grid = (found.shape[-2], found.shape[-1])
        return found + self.merge.summed(pyramid.maps, grid)
