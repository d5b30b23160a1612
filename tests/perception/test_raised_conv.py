"""A 3×3 convolution of raised maps, computed on the small ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from perception.heads.raised_conv import conv_of_raised


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("size", [(5, 7), (1, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_raising_then_convolving(
    groups, factor, size, bias
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, kernel_size=3, padding=1, groups=groups, bias=bias).double()
    maps = torch.randn(2, 6, *size, dtype=torch.float64)
    found_maps, wanted_maps = (maps.clone().requires_grad_() for _ in range(2))
    found = conv_of_raised(conv, found_maps, factor)
    wanted = conv(functional.interpolate(wanted_maps, scale_factor=factor, mode="bilinear"))
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn_like(found)
    leaves = tuple(conv.parameters())
    grads = torch.autograd.grad(found, (found_maps, *leaves), upstream)
    expected = torch.autograd.grad(wanted, (wanted_maps, *leaves), upstream)
    torch.testing.assert_close(grads, expected)
