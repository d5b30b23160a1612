"""What a stage changes: both sets of weights, the optimiser and the counts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from perception.creators.protocol import CreatorNetwork
from perception.diffusion.tuning import TunedUnet
from perception.methods.protocol import DensePredictor

if TYPE_CHECKING:
    from torch import nn

Learned = DensePredictor | CreatorNetwork
"""What a stage trains: a method, or, in the stage ``creator``, what makes images."""


@dataclass(kw_only=True)
class Learner:
    """State of a stage between two optimiser steps.

    Attributes:
        creation: θ_C, in evaluation mode; no optimiser ever holds its tensors. Of a creator: the
            moving average of what learns, which makes the images.
        exploitation: θ_E (θ_W while warming up), in training mode.
        optimizer: Over the parameters of ``exploitation`` alone.
        step: Optimiser steps made.
        seen_images: Images learnt from in this stage, over all ranks.
        ema_updates: Times that Eq. 8 was applied in this stage.
    """

    creation: Learned
    exploitation: Learned
    optimizer: torch.optim.Optimizer
    step: int = 0
    seen_images: int = 0
    ema_updates: int = 0


def make_learner(learned: Learned, *, weight_decay: float = 0.0) -> Learner:
    """Start a stage: creation = exploitation = the weights given.

    Args:
        learned: Becomes ``exploitation``; a copy of it becomes ``creation``.
        weight_decay: Decoupled weight decay; 0 makes the optimiser plain Adam.
    """
    creation = copy.deepcopy(learned).eval().requires_grad_(requires_grad=False)
    exploitation = learned.train().requires_grad_()
    # The learning rate is set before every step; the value here is never used.
    optimizer = torch.optim.AdamW(
        parameter_groups(exploitation), lr=1.0, weight_decay=weight_decay, fused=True
    )
    return Learner(creation=creation, exploitation=exploitation, optimizer=optimizer)


def parameter_groups(learned: nn.Module) -> list[dict[str, Any]]:
    """Split the parameters by learning rate; in order they are ``learned.parameters()``.

    Returns:
        Groups with ``params`` and ``lr_factor``: the learning rate relative to the stage's, which
        a U-Net that learns too may have less than 1.
    """
    factors = {
        id(parameter): tuned.lr_factor
        for tuned in learned.modules()
        if isinstance(tuned, TunedUnet)
        for parameter in tuned.parameters()
    }
    runs = groupby(learned.parameters(), key=lambda parameter: factors.get(id(parameter), 1.0))
    return [{"params": list(parameters), "lr_factor": factor} for factor, parameters in runs]


@torch.no_grad()
def copy_weights_(target: nn.Module, source: nn.Module) -> None:
    """Copy every parameter and buffer in place."""
    for mine, theirs in zip(
        target.state_dict().values(), source.state_dict().values(), strict=True
    ):
        mine.copy_(theirs)
