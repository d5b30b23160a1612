"""The moving average that folds the exploitation weights into the creation weights (Eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

FloatBuffers = Literal["average", "copy"]


@dataclass(frozen=True, slots=True)
class EmaSchedule:
    """When Eq. 8 is due: once per so many images, counted over all ranks.

    Attributes:
        every_samples: Images between two updates (the paper: 40).
    """

    every_samples: int

    def updates_due(self, seen_before: int, seen_after: int) -> int:
        """Count the updates that fall due while the number of seen images rises.

        The count of a stage depends on nothing but its images: batch size and number of ranks only
        decide how finely the updates are spread.
        """
        return seen_after // self.every_samples - seen_before // self.every_samples


@torch.no_grad()
def ema_update_(
    creation: nn.Module,
    exploitation: nn.Module,
    *,
    decay: float,
    updates: int = 1,
    float_buffers: FloatBuffers = "average",
) -> None:
    """θ_C ← α θ_C + (1 − α) θ_E in place: Eq. 8 of Diff-2-in-1 (Zheng et al., 2024).

    Float buffers (running means and variances) follow the same rule, as published, unless they are
    copied; integer buffers (counters) are always copied. The vectors with which spectral norm
    estimates a kernel's largest singular value belong to one kernel and lose their unit length when
    averaged: they are renewed from the averaged kernel instead.

    Args:
        exploitation: θ_E, a module of the same make.
        decay: α, in [0, 1).
        updates: Times to apply the rule with this θ_E, at least 0.
        float_buffers: Average them like parameters, or copy them.
    """
    if updates == 0:
        return
    share = 1.0 - decay**updates
    torch._foreach_lerp_(list(creation.parameters()), list(exploitation.parameters()), share)
    pairs = list(zip(creation.buffers(), exploitation.buffers(), strict=True))
    averaged = [pair for pair in pairs if float_buffers == "average" and _is_float(pair[0])]
    copied = [pair for pair in pairs if float_buffers == "copy" or not _is_float(pair[0])]
    if averaged:
        torch._foreach_lerp_([c for c, _ in averaged], [e for _, e in averaged], share)
    for mine, theirs in copied:
        mine.copy_(theirs)
    _renew_spectral_vectors(creation)


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _renew_spectral_vectors(module: nn.Module) -> None:
    """Run one power iteration on every kernel under spectral norm, as a training step does."""
    for each in module.modules():
        if parametrize.is_parametrized(each):
            kernels: nn.ModuleDict = each.parametrizations  # type: ignore[assignment]
            for name, kernel in kernels.items():
                was_training = kernel.training
                kernel.train()
                getattr(each, name)
                kernel.train(was_training)
