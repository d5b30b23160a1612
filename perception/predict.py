"""Images and seeds to predictions: how every part of the project asks a method.

Shapes and encodings are those of ``perception.methods.protocol.Predictions``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from perception.diffusion.latents import images_to_tensor
from perception.methods.protocol import Predictions, evaluating
from perception.seeding import sample_generator
from schemas.sample import TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.features import FeaturePyramid
    from perception.methods.protocol import DensePredictor
    from perception.seeding import Generators
    from schemas.sample import Task


class Frame(Protocol):
    """How images of another size lie on what the network reads."""

    @property
    def canvas_size(self) -> tuple[int, int]:
        """Rows and columns that predictions are asked at."""

    def lay(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an image to the network's size."""

    def cut(self, found: Predictions) -> Predictions:
        """Leave out what was predicted beside the image."""


def predict_images(
    backbone: DiffusionBackbone,
    method: DensePredictor,
    images: Sequence[NDArray[np.uint8]],
    *,
    seeds: Sequence[int],
    average_mirrored: bool = False,
    frame: Frame | None = None,
) -> Predictions:
    """Predict in evaluation mode and without gradients.

    An image's prediction depends on the image and its seed, not on its batch (up to rounding).

    Args:
        images: uint8 RGB [H, W, 3] arrays of one size.
        seeds: One per image, for the noise that its features are taken with.
        average_mirrored: Predict the mirror images too, with the same noise, and average.
        frame: How the images lie on what the network reads; None: as they are.

    Returns:
        Predictions of the images' size, or of what the frame leaves.
    """

    def ask(views: Sequence[NDArray[np.uint8]]) -> Predictions:
        laid = views if frame is None else [frame.lay(view) for view in views]
        pixels = images_to_tensor(laid)
        pyramid = observe(backbone, method, pixels, generators=generators_of(seeds))
        if frame is not None:
            return frame.cut(method.predict(pyramid, frame.canvas_size))
        height, width = pixels.shape[-2:]
        return method.predict(pyramid, (height, width))

    found = ask(images)
    if not average_mirrored:
        return found
    return average_with_mirror(found, ask([image[:, ::-1] for image in images]))


def observe(
    backbone: DiffusionBackbone, method: DensePredictor, pixels: Tensor, *, generators: Generators
) -> FeaturePyramid:
    """Take what a method reads from images, in evaluation mode and without gradients.

    Where features are shared, or read again, this half comes first and ``method.predict`` follows.

    Args:
        pixels: float32 [B, 3, H, W] in [-1, 1].
    """
    with evaluating(method):
        return method.observe(backbone, pixels, generators=generators)


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """Make one source of noise for each image."""
    return [sample_generator(seed) for seed in seeds]


def average_with_mirror(found: Predictions, mirrored: Predictions) -> Predictions:
    """Average what was predicted for images with what was predicted for their mirror images.

    Normals are the normalised mean of both directions, depth and probabilities are means, classes
    are those of the surer of the two at each pixel. The reliability is the mean; for classes, the
    greater; for probabilities, that of their mean, max(p, 1 - p).

    Args:
        mirrored: Predictions for the same images, mirrored.

    Returns:
        Predictions in the frame of ``found``.
    """
    labels: dict[Task, Tensor] = {}
    reliability: dict[Task, Tensor] = {}
    for task, ours in found.labels.items():
        theirs = mirror_label(mirrored.labels[task], task)
        sure, their_sure = found.reliability[task], mirrored.reliability[task].flip(-1)
        kind = TASK_KINDS[task]
        if kind == "classes":
            is_surer = (their_sure > sure).squeeze(1)
            labels[task] = torch.where(is_surer, theirs, ours)
            reliability[task] = torch.maximum(sure, their_sure)
            continue
        mean = (ours + theirs) / 2
        labels[task] = functional.normalize(mean, dim=1) if kind == "direction" else mean
        is_probability = kind == "probability"
        reliability[task] = (
            torch.maximum(mean, 1 - mean) if is_probability else (sure + their_sure) / 2
        )
    return Predictions(labels=labels, reliability=reliability)


def mirror_label(label: Tensor, task: Task) -> Tensor:
    """Swap left and right of a label map; an involution.

    Args:
        label: A batch of labels, encoded like ``perception.methods.protocol.Labels``.
    """
    flipped = label.flip(-1)
    if TASK_KINDS[task] != "direction":
        return flipped
    return flipped * flipped.new_tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)
