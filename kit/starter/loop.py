"""The training loop the three starter models share: schedule, moving average, checkpoints, log."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kit.starter.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from schemas.errors import NotFiniteError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")

LossFunction = Callable[[int, torch.Generator], Mapping[str, Tensor]]
"""Losses of one step, "loss" being the one to minimise, from its number and random numbers."""


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train; exactly one of `steps` and `minutes` is given.

    Attributes:
        learning_rate: Peak of the schedule.
        steps: Length in optimiser steps.
        minutes: Length in minutes of training, summed over sittings.
        warm_up_steps: Linear rise of the learning rate.
        ema_decay: Of the moving average that is exported.
        seed: Of every random number of the run.
        device: Where the model trains.
        mixed_precision: bfloat16 autocast.
        checkpoint_s: Seconds between checkpoints.
        log_every: Steps between log lines.
    """

    learning_rate: float
    steps: int | None = None
    minutes: float | None = None
    warm_up_steps: int = 100
    ema_decay: float = 0.999
    seed: int = 0
    device: torch.device = CPU
    mixed_precision: bool = True
    checkpoint_s: float = 120.0
    log_every: int = 50

    def progress(self, state: TrainingState) -> float:
        """Return how much of the run is over, 0 to 1.

        Raises:
            ValueError: If neither length is given.
        """
        if self.steps is not None:
            return min(state.step / self.steps, 1.0)
        if self.minutes is not None:
            return min(state.elapsed_s / (60 * self.minutes), 1.0)
        raise ValueError("steps or minutes: wanted one of them, found neither")


def learning_rate_factor(step: int, progress: float, warm_up_steps: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine to zero.

    Args:
        progress: Share of the run that is over, 0 to 1.
    """
    rise = min((step + 1) / max(warm_up_steps, 1), 1.0)
    return rise * 0.5 * (1.0 + math.cos(math.pi * progress))


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the random numbers of one step: a resumed run draws what an unbroken one would."""
    return torch.Generator().manual_seed((seed << 32) + step)


def make_state(model: nn.Module, settings: LoopSettings) -> TrainingState:
    """Return a fresh training state of a model with AdamW."""
    model.to(settings.device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    return TrainingState(model, optimizer)


def train(
    stage: str, state: TrainingState, loss_of: LossFunction, settings: LoopSettings, work_dir: Path
) -> TrainingState:
    """Train to the end of the schedule, resuming from a checkpoint where there is one.

    Args:
        stage: Names the checkpoint and the log in `work_dir`.
        state: A fresh state, see `make_state`.
        loss_of: The losses of one step; called under autocast.
        work_dir: Where `<stage>.safetensors` and `<stage>.jsonl` lie.

    Returns:
        The state at the end.

    Raises:
        NotFiniteError: If a loss is not finite; the last checkpoint stays.
    """
    checkpoint = work_dir / f"{stage}.safetensors"
    if load_checkpoint(checkpoint, state):
        logger.info("%s: resumed at step %d", stage, state.step)
    saved_at = clock = time.monotonic()
    while (progress := settings.progress(state)) < 1.0:
        losses = _one_step(state, loss_of, settings, progress)
        now = time.monotonic()
        state.elapsed_s += now - clock
        clock = now
        if state.step % settings.log_every == 0:
            _log(work_dir / f"{stage}.jsonl", stage, state, losses)
        if now - saved_at > settings.checkpoint_s:
            save_checkpoint(checkpoint, state)
            saved_at = now
    save_checkpoint(checkpoint, state)
    return state


def _one_step(
    state: TrainingState, loss_of: LossFunction, settings: LoopSettings, progress: float
) -> Mapping[str, Tensor]:
    factor = learning_rate_factor(state.step, progress, settings.warm_up_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor
    generator = step_generator(settings.seed, state.step)
    device = settings.device.type
    # On a CPU the backward of fused attention is the slowest part of a step: plain is faster.
    backends = [SDPBackend.MATH] if device == "cpu" else list(SDPBackend.__members__.values())
    with sdpa_kernel(backends):
        with torch.autocast(device, torch.bfloat16, enabled=settings.mixed_precision):
            losses = loss_of(state.step, generator)
        losses["loss"].backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    if not torch.isfinite(norm):
        raise NotFiniteError(f"step {state.step}: wanted a finite gradient, found {norm.item()}")
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.update_ema(settings.ema_decay)
    return losses


def _log(path: Path, stage: str, state: TrainingState, losses: Mapping[str, Tensor]) -> None:
    values = {name: round(float(value.detach()), 5) for name, value in losses.items()}
    row = {"step": state.step, "elapsed_s": round(state.elapsed_s, 1), **values}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    logger.info("%s: %s", stage, row)
