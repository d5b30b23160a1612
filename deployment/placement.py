"""How an image of any size is laid on what the network reads, and where its predictions lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from perception.methods.protocol import Predictions
from schemas.sample import TASK_KINDS, Task
from sources.resize import resize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PREDICTED_PIXELS = 2**20
"""Predictions for larger images are made at this many pixels and enlarged from there."""

MAX_ELONGATION = 4
"""With the aspect kept, no side is longer than this many times the training images' longer one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where an image lies on what the network reads.

    Attributes:
        image_size: Height and width of the image.
        network_size: Height and width of what the network reads.
        covered: Its part, from the upper left corner, that the image is resized to; the rest is
            padding.
    """

    image_size: tuple[int, int]
    network_size: tuple[int, int]
    covered: tuple[int, int]

    @property
    def predicted_size(self) -> tuple[int, int]:
        """The image's size, or one of the same aspect that is not too large to predict at."""
        height, width = self.image_size
        scale = min(1.0, math.sqrt(MAX_PREDICTED_PIXELS / (height * width)))
        return max(1, round(height * scale)), max(1, round(width * scale))

    @property
    def canvas_size(self) -> tuple[int, int]:
        """Size to ask predictions at, so that the covered part is ``predicted_size``."""
        (rows, columns), (height, width) = self.predicted_size, self.network_size
        covered_height, covered_width = self.covered
        return math.ceil(height * rows / covered_height), math.ceil(width * columns / covered_width)

    def lay(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image and repeat its last row and column over the padding.

        Args:
            image: uint8 RGB [H, W, 3] of ``image_size``.

        Returns:
            uint8 RGB of ``network_size``.
        """
        resized = resize_image(image, self.covered)
        below, right = (n - c for n, c in zip(self.network_size, self.covered, strict=True))
        return np.pad(resized, ((0, below), (0, right), (0, 0)), mode="edge")

    def cut(self, found: Predictions) -> Predictions:
        """Leave out what was predicted for the padding: from ``canvas_size`` to predicted_size."""
        rows, columns = self.predicted_size
        return Predictions(
            labels={task: label[..., :rows, :columns] for task, label in found.labels.items()},
            reliability={
                task: sure[..., :rows, :columns] for task, sure in found.reliability.items()
            },
        )


def stretch(image_size: tuple[int, int], network_size: tuple[int, int]) -> Placement:
    """Resize to the training images' size, whatever the aspect, as the papers do.

    Args:
        network_size: Height and width of the images the method was trained on.
    """
    return Placement(image_size=image_size, network_size=network_size, covered=network_size)


def keep_aspect(
    image_size: tuple[int, int], network_size: tuple[int, int], *, multiple: int
) -> Placement:
    """Resize the shorter side to that of the training images and pad to a size the network takes.

    Args:
        network_size: Height and width of the images the method was trained on.
        multiple: Both sides of what the network reads are multiples of this.
    """
    scale = min(
        min(network_size) / min(image_size),
        MAX_ELONGATION * max(network_size) / max(image_size),
    )
    height, width = (max(1, round(side * scale)) for side in image_size)
    return Placement(
        image_size=image_size,
        network_size=(_next_multiple(height, multiple), _next_multiple(width, multiple)),
        covered=(height, width),
    )


def resize_label(label: Tensor, task: Task, size: tuple[int, int]) -> Tensor:
    """Resize predictions without inventing values between classes.

    Args:
        label: Encoded as ``perception.methods.protocol.Labels``, without invalid pixels.

    Returns:
        The same encoding: normals bilinear and of unit length again, depth and probabilities
        bilinear, class ids those of the nearest pixel.
    """
    if label.shape[-2:] == size:
        return label
    kind = TASK_KINDS[task]
    if kind == "classes":
        planes = label[:, None].float()
        return functional.interpolate(planes, size=size, mode="nearest-exact")[:, 0].to(label.dtype)
    resized = functional.interpolate(label, size=size, mode="bilinear", align_corners=False)
    return functional.normalize(resized, dim=1) if kind == "direction" else resized


def label_as_array(label: Tensor, task: Task) -> NDArray[Any]:
    """One image's label [C, H, W] or [H, W] as ``schemas.sample`` encodes it in memory."""
    array = label.detach().to("cpu").numpy()
    kind = TASK_KINDS[task]
    if kind == "direction":
        return np.ascontiguousarray(array.transpose(1, 2, 0), dtype=np.float32)
    if kind == "classes":
        return array.astype(np.uint8)
    return np.ascontiguousarray(array[0], dtype=np.float32)


def reliability_as_array(reliability: Tensor) -> NDArray[np.float32]:
    """One image's reliability [1, H, W] as float32 [H, W]."""
    return reliability[0].detach().to("cpu", torch.float32).numpy()


def _next_multiple(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
