"""TaskDiffusion (Yang et al., 2025): the labels of all tasks are denoised together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perception.diffusion.cosine_time import (
    LATEST_TRAINED_TIME,
    denoise_step,
    log_snr,
    sampling_times,
    signal_and_noise,
)
from perception.heads.cross_task_decoder import AuxiliaryHeads, CrossTaskDecoder, PlainDecoder
from perception.heads.label_encoder import CrossTaskLabelEncoder, code_channels
from perception.heads.task_outputs import finish_outputs
from perception.losses.multi_task import multi_task_loss
from perception.methods.on_vit import (
    MethodOnViT,
    channels_of,
    image_size,
    merge_of,
    vit_of,
    width_ratio_of,
)
from perception.methods.raw_outputs import multi_task_predictions
from perception.seeding import draw_noise, sample_generator
from perception.vit import PatchEncoder, expect_images, host_width, prepare_images
from schemas.config_method import TaskDiffusionSection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perception.heads.cross_task_decoder import ImageFeatures
    from perception.merge import DiffusionMerge
    from perception.methods.protocol import Labels, PixelWeights, Pyramid
    from perception.methods.spec import MethodSpec
    from schemas.config_method import MethodSection
    from schemas.sample import Task

_PASCAL_WIDTH = 376
_NYUD_WIDTH = 768
_FARTHEST_M = 80.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDiffusionOutputs:
    """Raw outputs at the image's size, as ``multi_task_loss`` reads them.

    Attributes:
        final: Of the denoising step.
        auxiliary: Of the features alone; empty where they are not trained.
    """

    final: dict[Task, Tensor]
    auxiliary: dict[Task, Tensor]


def make(spec: MethodSpec, *, use_spectral_norm: bool = True) -> MethodOnViT:
    """Make the untrained method: published widths at ratio 1, scaled otherwise.

    The published width is PASCAL-Context's, 376, with ``human_parts`` among the tasks and NYUD's,
    768, otherwise.

    Args:
        spec: The run's choices and the backbone's shapes.
        use_spectral_norm: Spectral norm in the adapter's merges, as published.

    Raises:
        ConfigError: If ``spec.encoder`` names no ViT.
        ValueError: If the backbone does not have four levels, or a number of classes is missing.
    """
    choices = spec.choices
    options = choices.taskdiffusion or TaskDiffusionSection()
    published = _PASCAL_WIDTH if "human_parts" in choices.tasks else _NYUD_WIDTH
    width = options.width or host_width(published, width_ratio_of(spec))
    channels = channels_of(spec)
    vit = vit_of(spec)
    encoder = PatchEncoder(vit)
    merge = merge_of(spec, vit, use_spectral_norm=use_spectral_norm)
    if options.variant == "baseline":
        plain = PlainDecoder(encoder.width, width, channels)
        return TaskDiffusionBaseline(encoder, merge, plain, choices)
    jointly = options.encodes_jointly
    decoder = CrossTaskDecoder(
        encoder.width,
        width,
        code_channels(choices.tasks, width, encodes_jointly=jointly),
        channels,
        interaction=options.interaction,
        level_weights=options.level_weights,
    )
    label_encoder = CrossTaskLabelEncoder(
        channels, width, scale=options.scale, encodes_jointly=jointly
    )
    return TaskDiffusion(
        encoder,
        merge,
        decoder,
        choices,
        label_encoder=label_encoder if options.variant == "joint" else None,
        auxiliary=AuxiliaryHeads(width, channels),
    )


class TaskDiffusion(MethodOnViT):
    """Labels are coded, noised and, with the image's features, decoded: all tasks at once.

    Args:
        encoder: Gives four maps, shallow to deep.
        merge: Diffusion maps, of which the sum is added to all four; None: none are read.
        label_encoder: Codes labels; None: no labels and no noise, z = 0 told as log-SNR 0.
        auxiliary: Supervises the features; plays no part in predictions.
    """

    predicts_from_noise = True
    encoder: PatchEncoder
    decoder: CrossTaskDecoder

    def __init__(
        self,
        encoder: PatchEncoder,
        merge: DiffusionMerge | None,
        decoder: CrossTaskDecoder,
        choices: MethodSection,
        *,
        label_encoder: CrossTaskLabelEncoder | None,
        auxiliary: AuxiliaryHeads,
    ) -> None:
        super().__init__(encoder, merge, decoder, choices)
        self.options = choices.taskdiffusion or TaskDiffusionSection()
        self.label_encoder = label_encoder
        self.auxiliary = auxiliary

    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> TaskDiffusionOutputs:
        """See :meth:`DensePredictor.forward_train`: one step from a random noise level.

        Labels that are not known are all noise.
        """
        features = self.decoder.read(tapped(self.encoder, self.merge, pyramid, generator=generator))
        noised, levels = self._noised(features, labels, generator)
        size = image_size(pyramid)
        supervises = self.options.auxiliary_weight > 0
        return TaskDiffusionOutputs(
            final=finish_outputs(self.decoder(features, noised, levels), size),
            auxiliary=finish_outputs(self.auxiliary(features.by_task), size) if supervises else {},
        )

    def loss(
        self, outputs: TaskDiffusionOutputs, labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`: Σ_t w_t (final + λ auxiliary); terms: the final."""
        final, terms = multi_task_loss(
            outputs.final, labels, task_weights=self.task_weights, weights=weights
        )
        if not outputs.auxiliary:
            return final, terms
        auxiliary, _ = multi_task_loss(
            outputs.auxiliary, labels, task_weights=self.task_weights, weights=weights
        )
        return final + self.options.auxiliary_weight * auxiliary, terms

    def raw_outputs(
        self, pyramid: Pyramid, *, generator: torch.Generator | None = None
    ) -> dict[Task, Tensor]:
        """See :meth:`MethodOnViT.raw_outputs`: denoised from noise that the images' seeds give.

        Images without seeds have seed 0.
        """
        features = self.decoder.read(tapped(self.encoder, self.merge, pyramid, generator=generator))
        if self.label_encoder is None or not self.options.reads_code:
            return self._without_code(features)
        shape = self._code_shape(features)
        seeds = [0] * shape[0] if pyramid.seeds is None else pyramid.seeds.tolist()
        sources = [sample_generator(seed) for seed in seeds]
        device = features.shared[0].device
        found = [
            self._denoised(
                features,
                draw_noise(shape, generators=sources, device=device),
                self.label_encoder,
            )
            for _ in range(self.options.samples)
        ]
        return {
            task: torch.stack([each[task] for each in found]).mean(dim=0) for task in self.tasks
        }

    def _noised(
        self, features: ImageFeatures, labels: Labels | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Eq. 1: z_t = signal z_0 + noise ε, t uniform up to .999; and the log-SNRs [B] of t."""
        shape, device = self._code_shape(features), features.shared[0].device
        if self.label_encoder is None:
            return torch.zeros(shape, device=device), torch.zeros(shape[0], device=device)
        drawn = torch.rand(
            shape[0], generator=generator, device="cpu" if generator is None else generator.device
        )
        epsilon = draw_noise(shape, generators=generator, device=device)
        if labels is None:
            return epsilon, log_snr(torch.ones(shape[0])).to(device)
        levels = log_snr(LATEST_TRAINED_TIME * drawn).to(device)
        signal, noise = (each.view(-1, 1, 1, 1) for each in signal_and_noise(levels))
        return signal * self.label_encoder(labels, _side(epsilon)) + noise * epsilon, levels

    def _denoised(
        self, features: ImageFeatures, noise: Tensor, label_encoder: CrossTaskLabelEncoder
    ) -> dict[Task, Tensor]:
        """DDIM from pure noise: each step's predictions are coded, and noised less."""
        noised = noise
        *early, (last, _) = sampling_times(self.options.steps, self.options.lead)
        for time, next_time in early:
            raw = self.decoder(
                features, noised, _levels(time, noised), raises=self.options.raise_every_step
            )
            clean = label_encoder(self._as_labels(raw), _side(noised))
            noised = denoise_step(noised, clean, time, next_time)
        outputs: dict[Task, Tensor] = self.decoder(features, noised, _levels(last, noised))
        return outputs

    def _without_code(self, features: ImageFeatures) -> dict[Task, Tensor]:
        """Predict from z = 0: told the last step's level, or none if the network knows no time."""
        z = torch.zeros(self._code_shape(features), device=features.shared[0].device)
        last = sampling_times(self.options.steps, self.options.lead)[-1][0]
        levels = z.new_zeros(len(z)) if self.label_encoder is None else _levels(last, z)
        outputs: dict[Task, Tensor] = self.decoder(features, z, levels)
        return outputs

    def _as_labels(self, raw: Mapping[Task, Tensor]) -> dict[Task, Tensor]:
        """Turn raw outputs into labels of their size, none ignored; depth in metres."""
        size = _side(next(iter(raw.values())))
        labels = multi_task_predictions(finish_outputs(raw, size)).labels
        if "depth" in labels:
            labels["depth"] = labels["depth"].clamp(max=_FARTHEST_M)
        if "saliency" in labels:
            is_salient = labels["saliency"] > self.options.saliency_threshold
            labels["saliency"] = is_salient.float()
        return labels

    def _code_shape(self, features: ImageFeatures) -> tuple[int, int, int, int]:
        batch, _, height, width = features.shared[0].shape
        return batch, self.decoder.code_channels, height, width


class TaskDiffusionBaseline(MethodOnViT):
    """The same encoder with a plain decoder for each task, as the paper's first row."""

    encoder: PatchEncoder
    decoder: PlainDecoder

    def raw_outputs(
        self, pyramid: Pyramid, *, generator: torch.Generator | None = None
    ) -> dict[Task, Tensor]:
        """See :meth:`MethodOnViT.raw_outputs`."""
        outputs: dict[Task, Tensor] = self.decoder(
            tapped(self.encoder, self.merge, pyramid, generator=generator)
        )
        return outputs


def tapped(
    encoder: PatchEncoder,
    merge: DiffusionMerge | None,
    pyramid: Pyramid,
    *,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Encoder features after each quarter, plus the sum of the diffusion features.

    Returns:
        Four maps [B, width, h, w], shallow to deep.
    """
    images = prepare_images(expect_images(pyramid.images), encoder.patch_size)
    taps: list[Tensor] = encoder(images, generator=generator)
    if merge is None:
        return taps
    added = merge.summed(pyramid.maps, _side(taps[0]))
    return [tap + added for tap in taps]


def _side(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def _levels(time: float, like: Tensor) -> Tensor:
    """Log-SNR of a time for every image, on the device of ``like``."""
    return log_snr(torch.full((len(like),), time)).to(like.device)
