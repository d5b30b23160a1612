"""Points of a map: choose them by uncertainty, read maps at them, paste predictions back.

A point is an index into a flattened map, row · w + column. Maps of different sides are aligned at
their corner pixels, so column c of a map of width w lies at c / (w - 1) of any other map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_NEVER_UNCERTAIN = -1e4


def choose_points(
    kappa_Bhw: Tensor,
    *,
    point_fraction: float = 0.4,
    uncertain_fraction: float = 0.7,
    valid_Bhw: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose the pixels that learn: the most uncertain, and a uniform draw of the rest.

    Uncertainty-guided sampling of Bae et al. (2021), section 3.3. No pixel is chosen twice.

    Args:
        kappa_Bhw: Concentration of the predicted normal, [B, h, w]; low is uncertain. Read without
            gradient.
        point_fraction: Share of the h · w pixels to choose.
        uncertain_fraction: Share of the chosen ones that are the most uncertain.
        valid_Bhw: bool [B, h, w]; pixels without ground truth count as certain. None: all valid.
        generator: Source of the uniform draw, on any device.

    Returns:
        int64 [B, N], the most uncertain first, N = floor(point_fraction · h · w).
    """
    uncertainty = -kappa_Bhw.detach().flatten(1)
    num_points = int(point_fraction * uncertainty.shape[1])
    num_uncertain = int(uncertain_fraction * num_points)
    if valid_Bhw is not None:
        uncertainty = uncertainty.masked_fill(~valid_Bhw.flatten(1), _NEVER_UNCERTAIN)
    uncertain = uncertainty.topk(num_uncertain, dim=1, sorted=False).indices
    device = generator.device if generator is not None else uncertainty.device
    draw = torch.rand(uncertainty.shape, generator=generator, device=device).to(uncertainty.device)
    draw = draw.scatter(1, uncertain, -1.0)
    uniform = draw.topk(num_points - num_uncertain, dim=1, sorted=False).indices
    return torch.cat([uncertain, uniform], dim=1)


def read_points(maps_BChw: Tensor, points_BN: Tensor) -> Tensor:
    """Read a map at points of its own grid: [B, C, h, w] → [B, C, N]."""
    index = points_BN.unsqueeze(1).expand(-1, maps_BChw.shape[1], -1)
    return maps_BChw.flatten(2).gather(2, index)


def read_points_bilinear(
    maps_BChw: Tensor, points_BN: Tensor, *, grid_size: tuple[int, int]
) -> Tensor:
    """Read a map at points of another grid, bilinear: [B, C, h, w] → [B, C, N].

    Args:
        maps_BChw: The map to read, of any side.
        points_BN: Points of a grid of ``grid_size``.
        grid_size: Rows and columns of the points' grid.
    """
    height, width = grid_size
    # In float32 whatever the maps' type: bfloat16 cannot tell neighbouring columns apart.
    x = (points_BN % width).float() * (2.0 / max(width - 1, 1)) - 1.0
    y = (points_BN // width).float() * (2.0 / max(height - 1, 1)) - 1.0
    grid_B1N2 = torch.stack([x, y], dim=-1).unsqueeze(1)
    read = functional.grid_sample(maps_BChw.float(), grid_B1N2, mode="bilinear", align_corners=True)
    return read.squeeze(2).to(maps_BChw.dtype)


def paste_points(maps_BChw: Tensor, points_BN: Tensor, values_BCN: Tensor) -> Tensor:
    """Return the map with the points replaced; gradients reach both map and values."""
    index = points_BN.unsqueeze(1).expand_as(values_BCN)
    return maps_BChw.flatten(2).scatter(2, index, values_BCN.to(maps_BChw.dtype)).view_as(maps_BChw)


def resize_nearest(labels_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize labels or masks, taking the nearest pixel with corner pixels aligned.

    Args:
        labels_BCHW: Any dtype, [B, C, H, W].

    Returns:
        Same dtype, [B, C, *size]; the input itself if it already has that size.
    """
    if labels_BCHW.shape[-2:] == size:
        return labels_BCHW
    rows, columns = (
        torch.linspace(0, found - 1, wanted, device=labels_BCHW.device).round().long()
        for found, wanted in zip(labels_BCHW.shape[-2:], size, strict=True)
    )
    return labels_BCHW[..., rows, :][..., columns]
