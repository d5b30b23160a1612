"""Pieces of MT-Diffusion (Chen et al., 2024) for what is no map: classes, vectors, masked images.

A class or vector has no latents of its own. The shared U-Net encodes it: it is given the
modality by cross-attention, latents of zeros and timestep 0. Small heads read it back off the
U-Net's middle block. An image with hidden patches is a modality in the image's own space.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RunUnet = Callable[[Tensor, int, Tensor], Tensor]
"""Noisy latents, timestep and context to the U-Net's prediction."""

_SMALLEST_DEVIATION = 1e-6


@torch.no_grad()
def encode_by_unet(run: RunUnet, context: Tensor, latent_shape: Sequence[int]) -> Tensor:
    """Encode a modality as U(0, 0, context), with mean 0 and deviation 1 in each sample.

    Zeros at timestep 0 are far from what a U-Net has seen, so the size of its answer means nothing.
    No gradient: the noise that is learnt from must not move with the weights of the same step;
    give a moving average of the network where there is one.

    Args:
        context: The modality for cross-attention [B, S, D].
        latent_shape: [C, h, w].

    Returns:
        E, float32 [B, C, h, w].
    """
    zeros = torch.zeros(len(context), *latent_shape, device=context.device)
    encoded = run(zeros, 0, context).float()
    spread = encoded.std(dim=(1, 2, 3), keepdim=True, correction=0)
    centred = encoded - encoded.mean(dim=(1, 2, 3), keepdim=True)
    return centred / spread.clamp_min(_SMALLEST_DEVIATION)


@contextmanager
def recorded_middle(unet: Any) -> Iterator[list[Tensor]]:
    """Record the outputs [B, C, h, w] of a U-Net's middle block, a pass each.

    Args:
        unet: A ``UNet2DConditionModel`` that no other thread runs meanwhile.

    Yields:
        The list that passes fill.
    """
    found: list[Tensor] = []
    handle = unet.mid_block.register_forward_hook(lambda _block, _inputs, out: found.append(out))
    try:
        yield found
    finally:
        handle.remove()


def class_head(channels: int, num_classes: int) -> nn.Sequential:
    """Make a linear layer on the mean of a middle block [B, C, h, w]: logits [B, K]."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def vector_head(channels: int, width: int = 1024) -> nn.Sequential:
    """Make two layers on the mean of a middle block [B, C, h, w]: a vector [B, width]."""
    return nn.Sequential(
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width)),
    )


def modality_loss(output: Tensor, wanted: Tensor) -> Tensor:
    """Return a modality's term of Eq. 6: cross-entropy of class ids int64 [B], else mean square.

    Args:
        output: Logits [B, K], or what should equal ``wanted``.
    """
    if wanted.is_floating_point():
        return functional.mse_loss(output.float(), wanted.float())
    return functional.cross_entropy(output.float(), wanted)


class ClassContext(nn.Module):
    """Class ids as context for cross-attention, with one more row for *unknown*.

    Args:
        width: Width of the U-Net's context.

    Attributes:
        unknown_id: The id that stands for a class that is not told.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.unknown_id = num_classes
        self.rows = nn.Embedding(num_classes + 1, width)

    def forward(self, ids: Tensor) -> Tensor:
        """Turn ids int64 [B] into context [B, 1, width]."""
        embedded: Tensor = self.rows(ids)
        return embedded.unsqueeze(1)


def hide_patches(
    images: Tensor, *, num_patches: int, side: int, generator: torch.Generator | None = None
) -> Tensor:
    """Set square patches of each image to 0; they may overlap.

    Args:
        images: [B, C, H, W].
        num_patches: At least 0, for each image.
        side: Of a patch, in pixels, at most H and W; upper left corners are uniform over all
            places where the patch fits.

    Raises:
        ValueError: If a patch does not fit.
    """
    count, _, height, width = images.shape
    if not 0 < side <= min(height, width):
        raise ValueError(
            f"side of patches: wanted between 1 and {min(height, width)} pixels, found {side}"
        )
    corners = [
        torch.randint(size - side + 1, (count, num_patches, 1), generator=generator)
        for size in (height, width)
    ]
    rows, columns = (
        (torch.arange(size) >= corner) & (torch.arange(size) < corner + side)
        for size, corner in zip((height, width), corners, strict=True)
    )
    hidden = (rows.unsqueeze(3) & columns.unsqueeze(2)).any(dim=1, keepdim=True)
    return images.masked_fill(hidden.to(images.device), 0)


def with_wider_input(unet: Any) -> Any:
    """Copy a U-Net so that it also takes a masked image: [B, 2C, h, w], noisy latents first.

    The new weights are 0: at first it does not see the masked image.

    Args:
        unet: A ``UNet2DConditionModel``, not changed.
    """
    made = copy.deepcopy(unet)
    old = made.conv_in
    new = nn.Conv2d(2 * old.in_channels, old.out_channels, old.kernel_size, padding=old.padding)
    weight = torch.cat([old.weight, torch.zeros_like(old.weight)], dim=1)
    new.to(old.weight).load_state_dict({"weight": weight, "bias": old.bias})
    made.conv_in = new
    made.register_to_config(in_channels=new.in_channels)
    return made
