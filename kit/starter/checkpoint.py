"""Checkpoints of starter training: one safetensors file each, replaced atomically."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from schemas.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class TrainingState:
    """Everything a training run needs to go on as if it had not stopped.

    Random numbers are not part of it: each step draws from a generator seeded by its number.

    Attributes:
        model: The trained module, updated in place.
        optimizer: Its AdamW.
        ema: Moving average of every parameter by name, float32.
        step: Optimiser steps done.
        elapsed_s: Seconds of training so far, over all sittings.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    elapsed_s: float = 0.0

    def __post_init__(self) -> None:
        """Start the average at the initial weights."""
        if not self.ema:
            self.ema = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    @torch.no_grad()
    def update_ema(self, decay: float) -> None:
        """Fold the weights into the average: ema <- d * ema + (1 - d) * weights.

        The decay is lowered to (1 + step) / (10 + step) in the first steps, so that the average
        forgets the initial weights.
        """
        decay = min(decay, (1 + self.step) / (10 + self.step))
        parameters = [p.detach() for _, p in self.model.named_parameters()]
        torch._foreach_lerp_(list(self.ema.values()), parameters, 1.0 - decay)


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Write the state to one file; a reader sees the old file or the new one, never a part.

    Args:
        path: The file, usually `<stage>.safetensors`; its folder is made.
    """
    tensors = {f"ema.{name}": value for name, value in state.ema.items()}
    slots = state.optimizer.state_dict()["state"]
    for index, (name, parameter) in enumerate(state.model.named_parameters()):
        tensors[f"model.{name}"] = parameter.detach()
        for key, value in slots.get(index, {}).items():
            tensors[f"optimizer.{index}.{key}"] = value
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    metadata = {"step": str(state.step), "elapsed_s": repr(state.elapsed_s)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, str(part), metadata=metadata)
    os.replace(part, path)  # noqa: PTH105 Path.rename does not promise to overwrite


def load_checkpoint(path: Path, state: TrainingState) -> bool:
    """Restore the state from a file if there is one.

    Args:
        path: Written by `save_checkpoint`.
        state: Overwritten in place; its model must be of the same architecture.

    Returns:
        Whether there was a checkpoint.
    """
    if not path.is_file():
        return False
    slots: dict[int, dict[str, Tensor]] = {}
    parameters = dict(state.model.named_parameters())
    with safe_open(str(path), framework="pt") as file, torch.no_grad():
        metadata = file.metadata()
        for full_name in file.keys():  # noqa: SIM118 safe_open is no mapping
            part, _, name = full_name.partition(".")
            value = file.get_tensor(full_name)
            if part == "model":
                parameters[name].copy_(value)
            elif part == "ema":
                state.ema[name].copy_(value)
            else:
                index, _, key = name.partition(".")
                slots.setdefault(int(index), {})[key] = value
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    state.step = int(metadata["step"])
    state.elapsed_s = float(metadata["elapsed_s"])
    return True


@torch.no_grad()
def load_average(path: Path, model: nn.Module) -> None:
    """Overwrite a model's parameters with the moving average of a checkpoint.

    Args:
        path: Written by `save_checkpoint` for a model of the same architecture.
        model: Overwritten in place and put in eval mode.

    Raises:
        UserError: If there is no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path}: wanted a trained checkpoint, found none; train {path.stem} first")
    with safe_open(str(path), framework="pt") as file:
        for name, parameter in model.named_parameters():
            parameter.copy_(file.get_tensor(f"ema.{name}"))
    model.eval()
