"""A U-Net pass that lets gradients through to its text tokens and records where they are looked at.

Levels are numbered as in ``features``: 0 is the lowest resolution.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from perception.diffusion.features import recorded_maps
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.tuning import TunedUnet


def run_with_context(
    backbone: DiffusionBackbone,
    latents: Tensor,
    timestep: int,
    context: Tensor,
    *,
    attention_levels: Sequence[int] = (),
    tuned: TunedUnet | None = None,
) -> tuple[list[list[Tensor]], dict[int, Tensor]]:
    """Run the U-Net once; unlike ``DiffusionBackbone.predict`` it may send gradients back.

    Gradients reach ``context`` if it requires one and gradients are enabled; the U-Net's frozen
    parameters get none.

    Args:
        latents: [B, C, h, w], as the U-Net should see them, any float dtype.
        context: Text tokens [B, K, context width], any float dtype.
        tuned: Runs in place of the frozen U-Net; its trained parameters get gradients as well.

    Returns:
        The block outputs of every level, in the order of ``FeaturePyramid.maps``; and by level the
        share of attention that each token gets at each pixel, float32 [B, K, h, w], summing to 1
        over the tokens: mean over the heads, then over the layers of the level (VPD, Zhao et al.,
        2023, section 3.3).

    Raises:
        ConfigError: If a level has no cross-attention, or gradients would run through float16.
    """
    if context.requires_grad and backbone.dtype == torch.float16:
        raise ConfigError(
            "model.dtype: wanted float32 or bfloat16 to learn text tokens through the U-Net, found "
            "float16, whose small gradients vanish; set model.dtype to bfloat16"
        )
    unet = backbone.unet if tuned is None else tuned.unet
    latents, context = latents.to(backbone.dtype), context.to(backbone.dtype)
    with (
        backbone.lock,
        recorded_maps(unet) as maps,
        recorded_attention(unet, attention_levels) as attention,
    ):
        if tuned is None:
            unet(latents, timestep, encoder_hidden_states=context, return_dict=False)
        else:
            tuned(latents, timestep, context)
    averaged = {
        level: _as_maps(found, like_BChw=maps[level][-1]) for level, found in attention.items()
    }
    return maps, averaged


@contextmanager
def recorded_attention(unet: Any, levels: Sequence[int]) -> Iterator[dict[int, list[Tensor]]]:
    """Collect the cross-attention of every pass made inside the ``with`` block.

    What the U-Net computes stays the same to the last bit: the processors in place do the work.

    Args:
        unet: A ``UNet2DConditionModel``.
        levels: Which levels; all of their layers on the way down and up are recorded.

    Yields:
        Level to one tensor [B, N pixels, K tokens] per layer, float32, filled during the pass. The
        processors are back in place afterwards, also after an error.

    Raises:
        ConfigError: If a level has no cross-attention.
    """
    found: dict[int, list[Tensor]] = {level: [] for level in levels}
    layers = [(layer, found[level]) for level in levels for layer in cross_attentions(unet, level)]
    before = [(layer, layer.processor) for layer, _ in layers]
    try:
        for layer, records in layers:
            layer.set_processor(RecordingProcessor(layer.processor, records))
        yield found
    finally:
        for layer, processor in before:
            layer.set_processor(processor)


def cross_attentions(unet: Any, level: int) -> list[Any]:
    """List the cross-attention layers of a level's down and up blocks, in the order of the pass.

    The middle block, at the lowest level, is not among them.

    Args:
        unet: A ``UNet2DConditionModel``.
        level: 0 for the lowest resolution.

    Raises:
        ConfigError: If there is none.
    """
    blocks = (unet.down_blocks[len(unet.down_blocks) - 1 - level], unet.up_blocks[level])
    layers = [
        each.attn2
        for block in blocks
        for transformer in getattr(block, "attentions", None) or ()
        for each in transformer.transformer_blocks
        if each.attn2 is not None
    ]
    if not layers:
        raise ConfigError(
            f"U-Net: wanted cross-attention at level {level} (0 is the lowest resolution), found "
            f"blocks {[type(block).__name__ for block in blocks]}; use a text-to-image checkpoint "
            "with cross-attention there, as Stable Diffusion v1 has it"
        )
    return layers


def _as_maps(layers: list[Tensor], *, like_BChw: Tensor) -> Tensor:
    """Average [B, N, K] over layers, as maps [B, K, h, w] of the side of ``like_BChw``."""
    mean_BNK = torch.stack(layers).mean(dim=0)
    return mean_BNK.transpose(1, 2).unflatten(2, tuple(like_BChw.shape[-2:]))


class RecordingProcessor:
    """Attention processor that computes the probabilities on the side and leaves the rest alone.

    Args:
        records: Where [B, N, K] is appended at every call, float32, mean over the heads.
    """

    def __init__(self, processor: Any, records: list[Tensor]) -> None:
        self._processor = processor
        self._records = records

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Record softmax(QKᵀ/√d) of a diffusers ``Attention`` layer, then do what it would do."""
        tokens = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(tokens))
        shares = attn.get_attention_scores(query, key).float()
        self._records.append(shares.unflatten(0, (len(hidden_states), attn.heads)).mean(dim=1))
        output: Tensor = self._processor(
            attn,
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=attention_mask,
            **options,
        )
        return output
