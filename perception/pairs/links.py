"""Zero convolutions through which two U-Nets hear of each other (Zhang et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from perception.pairs.halves import skip_channels

if TYPE_CHECKING:
    from perception.pairs.halves import Descent


class BranchLinks(nn.Module):
    """The links of one branch: all zero at the start, so that it begins as the U-Net it was.

    What is received is added before the branch's own way down (the other's noisy latents, and what
    is known) and after it; what is sent is taken in between, before anything is received there.

    Args:
        unet: The branch's ``UNet2DConditionModel``, for its widths.
        reads_known: Whether it is told what is known: two convolutions at the input, not one.
    """

    def __init__(self, unet: Any, *, reads_known: bool) -> None:
        super().__init__()
        latent, stem = unet.conv_in.in_channels, unet.conv_in.out_channels
        widths = skip_channels(unet)
        self.exchange = zero_conv(latent, stem, side=3)
        self.known = zero_conv(2 * (1 + latent), stem, side=3) if reads_known else None
        self.skips = nn.ModuleList(zero_conv(width, width, side=1) for width in widths)
        self.middle = zero_conv(widths[-1], widths[-1], side=1)

    def receive(self, other_noisy: Tensor, known: Tensor) -> Tensor:
        """Return what is added after the branch's first convolution.

        Args:
            other_noisy: The other branch's noisy latents [B, C, h, w].
            known: Own mask, own known latents, the other's mask and known latents,
                [B, 2 (1 + C), h, w]; latents are 0 where the mask is 1.
        """
        added: Tensor = self.exchange(other_noisy)
        return added if self.known is None else added + self.known(known)

    def send(self, descent: Descent) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what the other branch adds to its middle and to its skips."""
        sent = zip(self.skips, descent.skips, strict=True)
        return self.middle(descent.middle), tuple(link(skip) for link, skip in sent)


def zero_conv(inputs: int, outputs: int, *, side: int) -> nn.Conv2d:
    """Make a convolution of odd side that keeps the size and returns 0."""
    conv = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    with torch.no_grad():
        conv.weight.zero_()
        if conv.bias is not None:
            conv.bias.zero_()
    return conv
