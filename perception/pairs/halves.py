"""A U-Net walked in two halves, so that something can happen between its ways down and up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_ABSENT = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_embedding_act_fn",
)
"""Settings of a U-Net that would need inputs or layers the two halves leave out."""


@dataclass(frozen=True, slots=True, eq=False)
class Descent:
    """A U-Net after its middle block.

    Attributes:
        middle: Output of the middle block [B, C, h', w'].
        skips: What the way up reads, in the order of the pass: the stem's output, then every layer
            and down-sampler.
        time_embedding: [B, E].
    """

    middle: Tensor
    skips: tuple[Tensor, ...]
    time_embedding: Tensor

    def plus(self, middle: Tensor, skips: tuple[Tensor, ...]) -> Descent:
        """Return this descent with something added to what the way up reads."""
        added = tuple(own + other for own, other in zip(self.skips, skips, strict=True))
        return replace(self, middle=self.middle + middle, skips=added)


def expect_plain(config: Mapping[str, Any]) -> None:
    """Check that a U-Net is what the halves can walk: it reads latents, time and text alone.

    Args:
        config: ``unet.config``.

    Raises:
        ConfigError: If it reads more, or lacks a middle block.
    """
    found = {name: config.get(name) for name in _ABSENT if config.get(name) is not None}
    if config.get("center_input_sample"):
        found["center_input_sample"] = True
    if config.get("mid_block_type", "") is None:
        found["mid_block_type"] = None
    if found:
        raise ConfigError(
            "unet of a pair model: wanted one with a middle block that reads latents, time and "
            f"text alone, found {found}; use a Stable Diffusion 1 or 2 checkpoint"
        )


def down_and_middle(
    unet: Any,
    latents: Tensor,
    timestep: int | Tensor,
    context: Tensor,
    *,
    stem_addition: Tensor | None = None,
) -> Descent:
    """Walk a U-Net down and through its middle block.

    Args:
        unet: A ``UNet2DConditionModel`` that ``expect_plain`` accepts.
        latents: Noisy latents [B, C, h, w].
        timestep: Schedule index, or one per sample as int64 [B].
        context: Text embeddings [B, S, D].
        stem_addition: Added to the output of the first convolution, [B, C_0, h, w].
    """
    embedded = unet.time_embedding(unet.get_time_embed(sample=latents, timestep=timestep))
    hidden = unet.conv_in(latents)
    if stem_addition is not None:
        hidden = hidden + stem_addition
    skips = (hidden,)
    for block in unet.down_blocks:
        hidden, of_block = block(hidden_states=hidden, temb=embedded, **_text(block, context))
        skips += of_block
    middle = unet.mid_block(hidden, embedded, **_text(unet.mid_block, context))
    return Descent(middle, skips, embedded)


def up(unet: Any, descent: Descent, context: Tensor) -> Tensor:
    """Walk a U-Net from its middle block to its output.

    With what :func:`down_and_middle` returned it gives, to the last bit, the U-Net's own output.

    Returns:
        The raw prediction [B, C, h, w].
    """
    hidden, skips = descent.middle, descent.skips
    height, width = skips[0].shape[-2:]
    shortest = 2**unet.num_upsamplers
    is_uneven = bool(height % shortest or width % shortest)
    for block in unet.up_blocks:
        count = len(block.resnets)
        skips, of_block = skips[:-count], skips[-count:]
        hidden = block(
            hidden_states=hidden,
            temb=descent.time_embedding,
            res_hidden_states_tuple=of_block,
            # Only an uneven side says the size: resizing to a size and by a factor may round apart.
            upsample_size=skips[-1].shape[2:] if is_uneven and skips else None,
            **_text(block, context),
        )
    if unet.conv_norm_out is not None:
        hidden = unet.conv_act(unet.conv_norm_out(hidden))
    prediction: Tensor = unet.conv_out(hidden)
    return prediction


def skip_channels(unet: Any) -> tuple[int, ...]:
    """Channels of each of a descent's skips."""
    found = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        layers = [*block.resnets, *(block.downsamplers or ())]
        found += [layer.out_channels for layer in layers]
    return tuple(found)


def _text(block: Any, context: Tensor) -> dict[str, Tensor]:
    reads_text = getattr(block, "has_cross_attention", False)
    return {"encoder_hidden_states": context} if reads_text else {}
