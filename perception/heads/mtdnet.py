"""MTDNet: a task's initial prediction is noised a little, then denoised in the sight of all tasks'.

Ye & Xu (2024, DiffusionMTL), equations 3 to 5. W: width; S: steps; R: rows, one for each pair of
image and task that is denoised. No layer mixes rows: together they are what each is alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.diffusion.schedule import NoiseSchedule, make_betas
from perception.geometry import resized
from perception.vit import tokens_to_map
from schemas.errors import ConfigError
from schemas.sample import Task

if TYPE_CHECKING:
    from schemas.config_method import DiffusionMtlSection

Maps = Mapping[Task, Tensor]
Noise = Callable[[Task, int, Tensor], Tensor]
"""Task, index of the step (S before the first), and the rows it is for, to normal noise."""

_FIRST_BETA = 0.001
_LAST_BETA = 0.01
_NUM_STEP_FREQUENCIES = 128
_LONGEST_PERIOD = 10_000.0
_MLP_FACTOR = 4
_HEAD_LAYERS = 3


def chain_schedule(steps: int) -> NoiseSchedule:
    """Make the chain's noise levels: β from .001 to .01, linear in √β; index S - 1 is the start."""
    betas = make_betas(
        {
            "beta_schedule": "scaled_linear",
            "beta_start": _FIRST_BETA,
            "beta_end": _LAST_BETA,
            "num_train_timesteps": steps,
        }
    )
    return NoiseSchedule(
        alpha_bar=torch.cumprod(1 - betas, dim=0), prediction_type="sample", final_alpha_bar=1.0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Posterior:
    """q(X_{k-1} | X_k, X_0): mean ``clean`` X_0 + ``present`` X_k (Ho et al., 2020, Eq. 7)."""

    clean: float
    present: float
    deviation: float


def posteriors(schedule: NoiseSchedule) -> list[Posterior]:
    """List the way down from each index; that from 0 is the clean end itself."""
    found, before = [], 1.0
    for beta, now in zip(schedule.betas.tolist(), schedule.alpha_bar.tolist(), strict=True):
        found.append(
            Posterior(
                clean=beta * math.sqrt(before) / (1 - now),
                present=(1 - before) * math.sqrt(1 - beta) / (1 - now),
                deviation=math.sqrt(beta * (1 - before) / (1 - now)),
            )
        )
        before = now
    return found


def step_sines(step: int, device: torch.device | None = None) -> Tensor:
    """Return 128 cosines and 128 sines of a step's index, of periods up to 2π · 10⁴."""
    places = torch.arange(_NUM_STEP_FREQUENCIES, device=device) / _NUM_STEP_FREQUENCIES
    angles = step * _LONGEST_PERIOD**-places
    return torch.cat([angles.cos(), angles.sin()])


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class Condition(nn.Module):
    """F_cond: the raw outputs of all tasks as one map of width W.

    Args:
        channels: Task to the channels of its raw output.
        lifts_each: Bring each task to width W before they are joined, as Prediction Diffusion does.
    """

    def __init__(self, channels: Mapping[Task, int], width: int, *, lifts_each: bool) -> None:
        super().__init__()
        self.tasks = tuple(channels)
        self.lift = nn.ModuleDict(
            {task: _conv(count, width) for task, count in channels.items() if lifts_each}
        )
        self.join = _conv(width * len(channels) if lifts_each else sum(channels.values()), width)

    def forward(self, predictions: Maps) -> Tensor:
        """Map outputs [B, C, h, w] of all tasks to [B, W, h, w]."""
        parts = [
            self.lift[task](predictions[task]) if self.lift else predictions[task]
            for task in self.tasks
        ]
        joined: Tensor = self.join(torch.cat(parts, dim=1))
        return joined


class DenoisingBlock(nn.Module):
    """Eq. 4: the condition's tokens ask those of the noised map.

    Args:
        reads_condition: Else the noised map asks itself.
    """

    def __init__(self, width: int, num_heads: int, *, reads_condition: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.known_mlp = _mlp(width) if reads_condition else None
        self.known_norm = nn.LayerNorm(width)
        self.asked_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, width)
        self.mlp = _mlp(width)

    def forward(self, asked: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens that ask and tokens that are asked, [R, N, W] each, to the same shapes."""
        known = asked if self.known_mlp is None else known + self.known_mlp(known)
        memory = self.known_norm(known)
        read = functional.scaled_dot_product_attention(
            self._split(self.query(self.asked_norm(asked))),
            self._split(self.key(memory)),
            self._split(self.value(memory)),
        )
        asked = asked + self.project(read.transpose(1, 2).flatten(2))
        return asked + self.mlp(asked), known

    def _split(self, tokens: Tensor) -> Tensor:
        """Return [R, heads, N, W / heads]."""
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def _mlp(width: int) -> nn.Sequential:
    hidden = _MLP_FACTOR * width
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
    )


def _step_head(width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(width, width, kernel_size=1)]
    for _ in range(_HEAD_LAYERS):
        layers += [_conv(width, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class MTDNet(nn.Module):
    """The denoiser, and its chain of S steps.

    Args:
        channels: Task to the channels of its raw output.
        width: W.
        options: What is denoised, in how many steps, and what it sees. The variant is ``feature``
            (X is F_init) or ``prediction`` (X is P_init).

    Raises:
        ConfigError: If the heads do not divide the width.
    """

    def __init__(
        self, channels: Mapping[Task, int], width: int, options: DiffusionMtlSection
    ) -> None:
        super().__init__()
        if width % options.num_heads:
            raise ConfigError(
                f"method.diffusionmtl.num_heads = {options.num_heads}: wanted a divisor of the "
                f"width {width}; set 1, as published"
            )
        self.options = options
        self.denoises_features = options.variant == "feature"
        # The numbers are read here, also where parts are made without any (torch's meta device).
        with torch.device("cpu"):
            self.schedule = chain_schedule(options.steps)
            self.posteriors = posteriors(self.schedule)
        reads_condition = options.condition == "tasks"
        self.condition = (
            Condition(channels, width, lifts_each=not self.denoises_features)
            if reads_condition
            else None
        )
        self.enter = nn.ModuleDict(
            {
                task: _conv(width if self.denoises_features else count, width)
                for task, count in channels.items()
            }
        )
        self.step = nn.Sequential(
            nn.Linear(2 * _NUM_STEP_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList(
            DenoisingBlock(width, options.num_heads, reads_condition=reads_condition)
            for _ in range(options.num_blocks)
        )
        self.leave = nn.ModuleDict({task: _step_head(width) for task in channels})
        self.outputs = nn.ModuleDict(
            {task: nn.Conv2d(width, count, kernel_size=1) for task, count in channels.items()}
        )

    def forward(
        self, features: Maps, predictions: Maps, rows: Mapping[Task, Tensor], noise: Noise
    ) -> dict[Task, Tensor]:
        """Run the chain, Eq. 3 and 5.

        Args:
            features: F_init of all tasks, [B, W, h, w].
            predictions: P_init of all tasks, [B, C, h, w].
            rows: Task to the images, int64 [R_t], whose map of it is denoised; tasks that are
                missing are left out.
            noise: Not called where the options ask for none.

        Returns:
            Task to raw outputs [R_t, C, h, w].
        """
        start = features if self.denoises_features else predictions
        present = {task: start[task][images] for task, images in rows.items()}
        if not present:
            return {}
        asked = self._asked_tokens(predictions, rows)
        steps = self.options.steps
        if self.options.adds_noise:
            present = {
                task: self.schedule.add_noise(maps, noise(task, steps, maps), steps - 1)
                for task, maps in present.items()
            }
        for k in reversed(range(steps)):
            clean = self.denoise(present, k, asked)
            if k > 0 and self.options.adds_noise:
                present = {
                    task: self._lower(clean[task], maps, k, noise(task, k, maps))
                    for task, maps in present.items()
                }
            else:
                present = clean
        if not self.denoises_features:
            return present
        return {task: self.outputs[task](clean) for task, clean in present.items()}

    def denoise(self, present: Maps, k: int, asked: Tensor | None) -> dict[Task, Tensor]:
        """Predict the clean maps of one step.

        Args:
            present: Task to X_k, [R_t, C or W, h, w].
            k: Index of the step, from S - 1 to 0.
            asked: Tokens of the condition, [R, N, W], in the order of ``present``; None: the maps'
                own.

        Returns:
            Maps of the same shapes; features are at least 0.
        """
        entered = torch.cat([self.enter[task](maps) for task, maps in present.items()])
        entered = entered + self.step(step_sines(k, entered.device)).view(-1, 1, 1)
        size, grid = (entered.shape[-2], entered.shape[-1]), self._grid(entered)
        known = _tokens(entered, grid)
        read = known if asked is None else asked
        for block in self.blocks:
            read, known = block(read, known)
        left = resized(tokens_to_map(read, grid), size) + entered
        counts = [len(maps) for maps in present.values()]
        found = {
            task: self.leave[task](maps)
            for task, maps in zip(present, left.split(counts), strict=True)
        }
        if self.denoises_features:
            return found
        return {task: self.outputs[task](maps) for task, maps in found.items()}

    def _asked_tokens(self, predictions: Maps, rows: Mapping[Task, Tensor]) -> Tensor | None:
        if self.condition is None:
            return None
        if self.options.detach_condition:
            predictions = {task: found.detach() for task, found in predictions.items()}
        condition = self.condition(predictions)
        return _tokens(condition, self._grid(condition))[torch.cat(list(rows.values()))]

    def _grid(self, maps: Tensor) -> tuple[int, int]:
        rows, columns = (max(1, side // self.options.token_reduction) for side in maps.shape[-2:])
        return rows, columns

    def _lower(self, clean: Tensor, present: Tensor, k: int, noise: Tensor) -> Tensor:
        way = self.posteriors[k]
        return way.clean * clean + way.present * present + way.deviation * noise


def _tokens(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return [B, N, W] of maps [B, W, h, w] brought to a grid of N pixels."""
    return resized(maps, grid).flatten(2).transpose(1, 2)
