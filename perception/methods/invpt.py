"""InvPT (Ye & Xu, 2022): a ViT beside the diffusion features, a decoder over all tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perception.heads.invpt_decoder import InvPTDecoder, InvPTWidths
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
from perception.vit import ViTEncoder, expect_images, prepare_images, tap_blocks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from perception.methods.protocol import Labels, PixelWeights, Pyramid
    from perception.methods.spec import MethodSpec
    from schemas.sample import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class InvPTOutputs:
    """Raw outputs at the image's size, as ``multi_task_loss`` reads them.

    Attributes:
        final: Of the last stage.
        preliminary: Of the coarse start, supervised with the same weights.
    """

    final: dict[Task, Tensor]
    preliminary: dict[Task, Tensor]


def make(spec: MethodSpec, *, use_spectral_norm: bool = True) -> InvPT:
    """Make the untrained method: published widths at ratio 1, scaled otherwise.

    Args:
        spec: The run's choices and the backbone's shapes.
        use_spectral_norm: Spectral norm in the adapter's merges, as published.

    Raises:
        ConfigError: If ``spec.encoder`` names no ViT.
        ValueError: If the backbone does not have four levels, or a number of classes is missing.
    """
    vit = vit_of(spec)
    first, second, _, last = tap_blocks(vit.config.num_hidden_layers)
    encoder = ViTEncoder(vit, (first, second, last))
    merge = merge_of(spec, vit, use_spectral_norm=use_spectral_norm)
    widths = InvPTWidths.scaled(width_ratio_of(spec))
    decoder = InvPTDecoder(encoder.width, widths, channels_of(spec))
    return InvPT(encoder, merge, decoder, spec.choices)


class InvPT(MethodOnViT):
    """Diff-2-in-1 on InvPT: diffusion features are added to the ViT's, scale by scale.

    The ViT is tapped after its first, second and last quarter.
    """

    encoder: ViTEncoder
    decoder: InvPTDecoder

    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,  # noqa: ARG002
        generator: torch.Generator | None = None,
    ) -> InvPTOutputs:
        """See :meth:`DensePredictor.forward_train`; outputs have the images' size."""
        final, preliminary = self._decode(pyramid, generator=generator)
        size = image_size(pyramid)
        return InvPTOutputs(
            final=finish_outputs(final, size), preliminary=finish_outputs(preliminary, size)
        )

    def loss(
        self, outputs: InvPTOutputs, labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`: Σ_t w_t (final + preliminary); terms: the final."""
        final, terms = multi_task_loss(
            outputs.final, labels, task_weights=self.task_weights, weights=weights
        )
        preliminary, _ = multi_task_loss(
            outputs.preliminary, labels, task_weights=self.task_weights, weights=weights
        )
        return final + preliminary, terms

    def raw_outputs(
        self, pyramid: Pyramid, *, generator: torch.Generator | None = None
    ) -> dict[Task, Tensor]:
        """See :meth:`MethodOnViT.raw_outputs`; of the last stage."""
        final, _ = self._decode(pyramid, generator=generator)
        return final

    def features(self, pyramid: Pyramid) -> list[Tensor]:
        """Encoder features, plus diffusion features; shallow to deep, [B, width, h, w] each."""
        taps = self.encoder(prepare_images(expect_images(pyramid.images), self.encoder.patch_size))
        if self.merge is None:
            return taps
        grid = (taps[0].shape[-2], taps[0].shape[-1])
        # The merge runs from low to high resolution, the decoder's taps from high to low.
        added = reversed(self.merge(pyramid.maps, grid))
        return [tap + each for tap, each in zip(taps, added, strict=True)]

    def _decode(
        self, pyramid: Pyramid, *, generator: torch.Generator | None = None
    ) -> tuple[dict[Task, Tensor], dict[Task, Tensor]]:
        final, preliminary = self.decoder(self.features(pyramid), generator=generator)
        return final, preliminary
