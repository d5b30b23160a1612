"""A U-Net that learns with the method: only what it trains belongs to the method's weights."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perception.diffusion.backbone import DiffusionBackbone

Tuning = Literal["lora", "full"]

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of the attention layers that get a low-rank term, as is usual for diffusion."""

_AFTER_LAST_MAP = ("conv_norm_out.", "conv_out.")


def tuned_copy(
    backbone: DiffusionBackbone, *, tuning: Tuning, lora_rank: int = 8, lr_factor: float = 0.1
) -> TunedUnet:
    """Make a U-Net for a method to read features from; generation keeps the frozen one.

    The comparisons "fine-tune the whole U-Net" and "LoRA" of Diff-2-in-1 (Zheng et al., 2024,
    table B).

    Args:
        backbone: The frozen model; neither changed nor, for ``lora``, copied.
        tuning: ``full`` trains every layer that the maps depend on; ``lora`` (Hu et al., 2022)
            low-rank terms at the attention's projections, zero at the start.
        lr_factor: Learning rate of the U-Net relative to the rest of the method.

    Raises:
        ConfigError: If the backbone runs in float16, or has no attention for ``lora``.
    """
    if backbone.dtype == torch.float16:
        raise ConfigError(
            f"backbone_tuning {tuning}: wanted a backbone in float32 or bfloat16, found float16, "
            "whose small gradients vanish; set model.dtype to bfloat16"
        )
    if tuning == "full":
        unet = copy.deepcopy(backbone.unet).float().requires_grad_()
        for name, parameter in unet.named_parameters():
            if name.startswith(_AFTER_LAST_MAP):
                parameter.requires_grad_(requires_grad=False)
    else:
        unet = with_lora(backbone.unet, rank=lora_rank)
    return TunedUnet(unet, dtype=backbone.dtype, lr_factor=lr_factor)


def with_lora(unet: Any, *, rank: int) -> Any:
    """Make a U-Net with low-rank terms in float32 around the very weights of another one.

    Args:
        unet: A frozen ``UNet2DConditionModel``, not changed.
        rank: Rank of the terms; alpha is the same, so they count once.

    Raises:
        ConfigError: If there is no layer to give such a term.
    """
    shared = sharing_copy(unet)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_TARGETS))
    try:
        inject_adapter_in_model(config, shared)
    except ValueError as error:
        raise ConfigError(
            f"lora: wanted a U-Net with attention, found none of {LORA_TARGETS}; train all of it: "
            "use backbone_tuning full, training.creator.tuning full, or joint_branch copy"
        ) from error
    for parameter in shared.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return shared


def sharing_copy(unet: Any) -> Any:
    """Make a U-Net of the very tensors of another one, whose hooks do not see its passes."""
    return copy.deepcopy(unet, _keeping([*unet.parameters(), *unet.buffers()]))


class TunedUnet(nn.Module):
    """A U-Net of which only the trained tensors are this module's parameters and state.

    The frozen rest is neither listed, saved, averaged nor copied: ``copy.deepcopy`` gives trained
    tensors of its own around the same frozen ones.

    Args:
        unet: A ``UNet2DConditionModel``; its parameters that require a gradient are trained.
        dtype: What the pass computes in; trained float32 tensors are cast on the way.
        lr_factor: Learning rate relative to the rest of the method.
    """

    def __init__(self, unet: Any, *, dtype: torch.dtype, lr_factor: float) -> None:
        super().__init__()
        # In a tuple, a module is no submodule: its frozen tensors stay out of parameters and state.
        self._hidden = (unet,)
        self.lr_factor = lr_factor
        self.dtype = dtype
        self.trained = nn.ParameterDict(
            {
                name.replace(".", "/"): parameter
                for name, parameter in unet.named_parameters()
                if parameter.requires_grad
            }
        )

    @property
    def unet(self) -> Any:
        """The ``UNet2DConditionModel``, with the present values of the trained tensors."""
        return self._hidden[0]

    def frozen_tensors(self) -> Iterator[Tensor]:
        """Go through the tensors that do not train."""
        trained = {id(parameter) for parameter in self.trained.values()}
        for tensor in (*self.unet.parameters(), *self.unet.buffers()):
            if id(tensor) not in trained:
                yield tensor

    def casting(self, device: torch.device) -> AbstractContextManager[Any]:
        """Cast trained float32 tensors to what the pass computes in, while entered."""
        is_exact = self.dtype == torch.float32
        return nullcontext() if is_exact else torch.autocast(device.type, self.dtype)

    def forward(self, latents: Tensor, timestep: int | Tensor, context: Tensor) -> Tensor:
        """Run the U-Net once, with gradients where they are enabled.

        Args:
            latents: Noisy latents [B, C, h, w].
            timestep: Schedule index, or one per sample as int64 [B].
            context: Text embeddings [B, L, C].

        Returns:
            The raw prediction [B, C, h, w]; who wants the maps on the way records them.
        """
        with self.casting(latents.device):
            output = self.unet(
                latents.to(self.dtype), timestep, encoder_hidden_states=context, return_dict=False
            )
        prediction: Tensor = output[0]
        return prediction

    def __deepcopy__(self, memo: dict[int, Any]) -> TunedUnet:
        memo.update(_keeping(list(self.frozen_tensors())))
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        # Parameters listed here and those inside the hidden U-Net are copied under one memo, so
        # that both stay the same tensors.
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def _keeping(tensors: list[Tensor]) -> dict[int, Any]:
    """Memo of ``copy.deepcopy`` that leaves tensors as they are."""
    return {id(tensor): tensor for tensor in tensors}
