"""Sine positions of the pixels of a map, for attention that does not know where a pixel lies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LONGEST_PERIOD = 10_000.0


def sine_positions(like_BChw: Tensor) -> Tensor:
    """Encode rows in the first half of the channels, columns in the second (Carion et al., 2020).

    Coordinates run over (0, 2π], whatever the size of the map; channel pairs are sine and cosine at
    geometrically growing periods.

    Args:
        like_BChw: A map; its number of channels must be a multiple of 4.

    Returns:
        float32 [1, C, h, w] on the device of the map.
    """
    channels, height, width = like_BChw.shape[1:]
    device = like_BChw.device
    num_periods = channels // 4
    steps = torch.arange(num_periods, device=device, dtype=torch.float32) / num_periods
    periods = _LONGEST_PERIOD**steps

    def encode(count: int) -> Tensor:
        places = torch.arange(1, count + 1, device=device, dtype=torch.float32) / count
        angles = 2 * math.pi * places[None] / periods[:, None]
        return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)

    rows = encode(height)[:, :, None].expand(-1, -1, width)
    columns = encode(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None]
