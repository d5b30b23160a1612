"""Pairs larger than the U-Net was trained on, from overlapping windows that share every step.

A window's DDIM step is linear in what the network reads off the shared canvas, so the weighted
mean of the windows' estimates, moved once, is the weighted mean of the windows' steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from perception.pairs.latents import on_each
from perception.pairs.network import Known, PairEstimate, PairLatents
from perception.seeding import draw_seeds, sample_generator
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from perception.pairs.network import PairNetwork
    from perception.seeding import Generators


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How a canvas is covered; lengths in latents. The defaults are JointNet's panorama.

    Attributes:
        window: Side of a window; at most the canvas's side is used.
        stride: From one window to the next.
        ramp: How far a window's weight rises from its border.
        wraps: Whether the canvas closes on itself from right to left.
        shifts: Whether all windows move right by a random offset below the stride at each step,
            of each sample's own; the canvas has to wrap.
        whole_weight: Weight of the whole canvas as one more window; 0: none.
        whole_share: The whole canvas takes part in steps i < share * N.
    """

    window: int = 64
    stride: int = 32
    ramp: int = 8
    wraps: bool = True
    shifts: bool = True
    whole_weight: float = 5.0
    whole_share: float = 0.4

    def __post_init__(self) -> None:
        """Check that every latent is covered.

        Raises:
            ConfigError: Naming field, value and allowed range.
        """
        if not 0 < self.stride <= self.window:
            raise ConfigError(
                f"tiles stride: wanted between 1 and the window's {self.window}, found "
                f"{self.stride}; wider steps leave gaps"
            )
        if not 0 < self.ramp <= self.window / 2:
            raise ConfigError(
                f"tiles ramp: wanted between 1 and half of the window's {self.window}, found "
                f"{self.ramp}"
            )
        if self.shifts and not self.wraps:
            raise ConfigError(
                "tiles shifts: wanted a canvas that wraps, found wraps = false, which would leave "
                "its left border uncovered; set shifts to false"
            )


PANORAMA = Tiling()
"""A cylinder."""
ENLARGING = Tiling(wraps=False, shifts=False, whole_weight=0)
"""A picture with borders, started from a smaller one."""


def ramp_weights(length: int, ramp: int) -> Tensor:
    """Weights across a window: rise over ``ramp`` latents from both borders to 1, never 0.

    clamp(W/2 - |j + 1/2 - W/2|, 0, r) / r: 1/2r, 3/2r, ..., 1.

    Returns:
        float32 [length].
    """
    middle = length / 2
    from_middle = (torch.arange(length) + 0.5 - middle).abs()
    return (middle - from_middle).clamp(0, ramp) / ramp


def window_starts(length: int, *, window: int, stride: int, wraps: bool) -> tuple[int, ...]:
    """Where windows begin along a side, so that all of it is covered.

    Args:
        wraps: Windows may leave on the right and come back on the left; else the last one ends at
            the border.
    """
    if wraps:
        return tuple(range(0, length, stride))
    last = max(0, length - window)
    return (*range(0, last, stride), last)


class TiledNetwork:
    """A pair network on a canvas of any size; fulfils ``PairNetwork`` for one sampling.

    Args:
        network: Called for one window of all samples at a time.
        timesteps: Those that sampling visits, in their order.
        num_samples: Samples of the batch.
        generators: Source of the offsets; one per sample makes a sample independent of its batch.

    Attributes:
        schedule: The network's.
        tasks: The network's.
    """

    def __init__(
        self,
        network: PairNetwork,
        tiling: Tiling,
        *,
        timesteps: Sequence[int],
        num_samples: int,
        generators: Generators = None,
    ) -> None:
        self.schedule = network.schedule
        self.tasks = network.tasks
        self._network = network
        self._tiling = tiling
        with_whole = tiling.whole_share * len(timesteps) if tiling.whole_weight > 0 else 0
        self._with_whole = {each for i, each in enumerate(timesteps) if i < with_whole}
        self._offsets = {each: torch.zeros(num_samples, dtype=torch.int64) for each in timesteps}
        if tiling.shifts:
            drawn = torch.stack(
                [
                    torch.randint(
                        tiling.stride, (len(timesteps),), generator=sample_generator(seed)
                    )
                    for seed in draw_seeds(generators, num_samples).tolist()
                ]
            )
            self._offsets = dict(zip(timesteps, drawn.unbind(dim=1), strict=True))

    def start(self, noise: PairLatents, known: Known, timestep: int) -> PairLatents:
        """As the network does."""
        return self._network.start(noise, known, timestep)

    def move(
        self, state: PairLatents, estimate: PairEstimate, timestep: int, next_timestep: int | None
    ) -> PairLatents:
        """As the network does."""
        return self._network.move(state, estimate, timestep, next_timestep)

    def denoise(
        self, state: PairLatents, timestep: int, context: Tensor, known: Known
    ) -> PairEstimate:
        """Average what the network reads off all windows.

        Args:
            state: A batch of ``num_samples``, or several times those one after the other.
        """
        count = len(state.image)
        offsets = self._offsets[timestep]
        offsets = offsets.repeat(count // len(offsets)).to(state.image.device)

        def rolled(pair: PairLatents, by: Tensor) -> PairLatents:
            return on_each(lambda each: roll_columns(each, by), pair)

        # The canvas moves left under windows that stay: the same as windows that move right.
        state = rolled(state, -offsets)
        known = Known(rolled(known.latents, -offsets), rolled(known.masks, -offsets))
        estimate = self._average(state, timestep, context, known)
        return PairEstimate(rolled(estimate.clean, offsets), rolled(estimate.noise, offsets))

    def _average(
        self, state: PairLatents, timestep: int, context: Tensor, known: Known
    ) -> PairEstimate:
        tiles = cover(state.image.shape[-2:], self._tiling, with_whole=timestep in self._with_whole)
        parts = [
            self._network.denoise(
                on_each(tile.cut, state),
                timestep,
                context,
                Known(on_each(tile.cut, known.latents), on_each(tile.cut, known.masks)),
            )
            for tile in tiles
        ]

        def merge(*of_tiles: Tensor) -> Tensor:
            return weighted_canvas(tiles, of_tiles, state.image.shape[-2:])

        return PairEstimate(
            clean=on_each(merge, *(each.clean for each in parts)),
            noise=on_each(merge, *(each.noise for each in parts)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A part of a canvas.

    Attributes:
        rows: Indices, int64 [h].
        columns: Indices, int64 [w]; a wrapped window's are not in order.
        weights: float32 [h, w], above 0.
    """

    rows: Tensor
    columns: Tensor
    weights: Tensor

    def cut(self, canvas: Tensor) -> Tensor:
        """Return the part [..., h, w] of a canvas [..., H, W]."""
        return canvas[..., self.rows[:, None].to(canvas.device), self.columns.to(canvas.device)]

    def add_to_(self, canvas: Tensor, part: Tensor | float) -> None:
        """Add a weighted part to a canvas, in place."""
        at = (..., self.rows[:, None].to(canvas.device), self.columns.to(canvas.device))
        canvas[at] += self.weights.to(canvas) * part


def cover(size: Sequence[int], tiling: Tiling, *, with_whole: bool) -> list[Tile]:
    """List the windows on a canvas of a height and width, and with it the whole canvas.

    Windows are weighted by the smaller of both sides' ramps; a side that one window spans has none.
    """
    (row_starts, row_weights), (column_starts, column_weights) = (
        _along(length, tiling, wraps=wraps)
        for length, wraps in zip(size, (False, tiling.wraps), strict=True)
    )
    weights = torch.minimum(row_weights[:, None], column_weights)
    tiles = [
        Tile(
            rows=torch.arange(top, top + len(row_weights)),
            columns=torch.arange(left, left + len(column_weights)) % size[1],
            weights=weights,
        )
        for top in row_starts
        for left in column_starts
    ]
    if with_whole:
        weight = torch.full(tuple(size), tiling.whole_weight)
        tiles.append(Tile(torch.arange(size[0]), torch.arange(size[1]), weight))
    return tiles


def _along(length: int, tiling: Tiling, *, wraps: bool) -> tuple[tuple[int, ...], Tensor]:
    """Starts and weights of the windows along one side."""
    window = min(tiling.window, length)
    starts = window_starts(length, window=window, stride=tiling.stride, wraps=wraps)
    is_spanned = len(starts) == 1
    return starts, torch.ones(window) if is_spanned else ramp_weights(window, tiling.ramp)


def weighted_canvas(tiles: Sequence[Tile], parts: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Return the weighted mean of what tiles hold, [..., H, W]."""
    canvas = parts[0].new_zeros(*parts[0].shape[:-2], *size)
    weights = parts[0].new_zeros(*size)
    for tile, part in zip(tiles, parts, strict=True):
        tile.add_to_(canvas, part)
        tile.add_to_(weights, 1.0)
    return canvas / weights


def roll_columns(canvas: Tensor, by: Tensor) -> Tensor:
    """Move each sample's columns right by its own number; what leaves comes back on the left.

    Args:
        canvas: [B, C, H, W].
        by: int64 [B].
    """
    width = canvas.shape[-1]
    from_columns = (torch.arange(width, device=canvas.device) - by[:, None]) % width
    return canvas.gather(-1, from_columns[:, None, None, :].expand(canvas.shape))


def pad_wrapped(latents: Tensor, columns: int = 8) -> Tensor:
    """Continue a canvas that wraps on both sides, for an autoencoder that sees its neighbours.

    The decoded image has ``columns`` times the downsample factor too many pixels on each side.

    Args:
        latents: [B, C, h, w].
        columns: At most w.
    """
    return torch.cat([latents[..., -columns:], latents, latents[..., :columns]], dim=-1)
