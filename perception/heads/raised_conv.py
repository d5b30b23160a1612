"""A 3×3 convolution of maps that are raised bilinearly, without ever making the raised maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor, nn


def conv_of_raised(conv: nn.Conv2d, maps_BChw: Tensor, factor: int) -> Tensor:
    """Return ``conv(raised)``, where ``raised`` are the maps at ``factor`` times their sides.

    Raising (bilinear, pixel centres) and convolving are linear, and channels and places do not mix
    before the sum: Σ_ij shift_ij(raise(W_ij x)) with the nine 1×1 convolutions W_ij on the small
    maps. So the sums over channels cost 1 / factor² of those of the raised maps.

    Args:
        conv: 3×3 with zero padding of one pixel, stride 1; with groups or without.

    Returns:
        [B, conv.out_channels, factor · h, factor · w].
    """
    height, width = maps_BChw.shape[-2:]
    # Output channels in the order of the weight's own: channel, row, column.
    weight = conv.weight.permute(0, 2, 3, 1).flatten(0, 2)[..., None, None]
    taps = functional.conv2d(maps_BChw, weight, groups=conv.groups)
    taps_BOijhw = taps.unflatten(1, (conv.out_channels, 3, 3))
    rows_iHh, columns_jWw = (_shifted(side, factor).to(taps) for side in (height, width))
    raised = torch.einsum("boijhw,iyh,jxw->boyx", taps_BOijhw, rows_iHh, columns_jWw)
    return raised if conv.bias is None else raised + conv.bias[:, None, None]


def _shifted(side: int, factor: int) -> Tensor:
    """Matrices [3, factor · side, side] that raise a line and move it by -1, 0 and 1 pixels."""
    identity = torch.eye(side)[None]
    raising = functional.interpolate(identity, scale_factor=factor, mode="linear")[0].T
    padded = functional.pad(raising, (0, 0, 1, 1))
    return torch.stack([padded[i : i + factor * side] for i in range(3)])
