"""From decoded samples to the tensors a training step takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from perception.diffusion.latents import images_to_tensor
from schemas.sample import INVALID_VALUES, RELIABILITY_MEASURES, TASK_KINDS, Sample, Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from schemas.config_training import PixelWeighting

REAL_VERSION = -1
"""What stands for the version of creation weights where a sample is real."""


def collate(
    samples: Sequence[Sample],
    tasks: Sequence[Task],
    *,
    versions: Sequence[int] | None = None,
    captions: Sequence[str] | None = None,
    pixel_weights: PixelWeighting = "none",
) -> Batch:
    """Stack samples of equal size.

    A sample without a label of a task gets one that is invalid everywhere, so that neither loss
    nor metric counts it.

    Args:
        samples: At least one; images uint8 [H, W, 3], labels as ``schemas.sample`` says.
        versions: Version of creation weights that labelled each sample, ``REAL_VERSION`` for a
            real one; all ``REAL_VERSION`` if absent.
        captions: Text of each sample, "" where none is known; all "" if absent.
        pixel_weights: ``confidence`` weighs each pixel as :func:`pixel_weight` says; ``none`` all
            alike.

    Returns:
        The batch, on the CPU.

    Raises:
        ValueError: If there is no sample, or sizes differ.
    """
    sizes = {sample.image.shape for sample in samples}
    if len(sizes) != 1:
        raise ValueError(f"wanted samples of one size, found {sorted(sizes)}; resize the source")
    given = [REAL_VERSION] * len(samples) if versions is None else list(versions)
    return Batch(
        images=images_to_tensor([sample.image for sample in samples]).contiguous(),
        labels={task: _stack_labels(samples, task) for task in tasks},
        is_synthetic=torch.tensor([sample.is_synthetic for sample in samples]),
        keys=tuple(sample.key for sample in samples),
        captions=("",) * len(samples) if captions is None else tuple(captions),
        versions=torch.tensor(given, dtype=torch.int64),
        weights={} if pixel_weights == "none" else _stack_weights(samples, tasks),
    )


def pixel_weight(reliability: NDArray[Any], task: Task) -> NDArray[np.float32]:
    """Turn the reliability of a predicted label into what each pixel counts, in [0, 1].

    For normals, where it is the expected angular error θ, max(0, cos θ): 1 for a sure pixel, 0 from
    90 degrees on. For all other tasks the reliability itself.

    Args:
        reliability: [H, W]; degrees for normals, in [0, 1] for the others.
    """
    is_error = RELIABILITY_MEASURES[task] == "expected_error_deg"
    sure = np.cos(np.deg2rad(reliability)) if is_error else reliability
    return np.clip(sure, 0.0, 1.0).astype(np.float32)


def hflip_sample(sample: Sample) -> Sample:
    """Mirror a sample left to right: image, labels and reliability together.

    The x axis of the camera points right, so normals have their x negated; invalid pixels (all
    zero) stay invalid.
    """
    labels = {task: _mirror(label) for task, label in sample.labels.items()}
    for task, label in labels.items():
        if TASK_KINDS[task] == "direction":
            label[..., 0] *= -1
    return replace(
        sample,
        image=_mirror(sample.image),
        labels=labels,
        reliability={task: _mirror(value) for task, value in sample.reliability.items()},
    )


def _mirror(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array[:, ::-1])


def _stack_labels(samples: Sequence[Sample], task: Task) -> Tensor:
    height, width = samples[0].image.shape[:2]
    invalid = _invalid_label(task, height, width)
    stacked = torch.from_numpy(np.stack([sample.labels.get(task, invalid) for sample in samples]))
    kind = TASK_KINDS[task]
    if kind == "direction":
        return stacked.permute(0, 3, 1, 2).to(torch.float32).contiguous()
    if kind == "classes":
        return stacked.to(torch.int64)
    return stacked.unsqueeze(1).to(torch.float32)


def _stack_weights(samples: Sequence[Sample], tasks: Sequence[Task]) -> dict[Task, Tensor]:
    """Stack the weights of the tasks that any synthetic sample has a reliability of."""
    ones = np.ones(samples[0].image.shape[:2], dtype=np.float32)
    stacked: dict[Task, Tensor] = {}
    for task in tasks:
        known = [s.reliability.get(task) if s.is_synthetic else None for s in samples]
        if any(each is not None for each in known):
            rows = [ones if each is None else pixel_weight(each, task) for each in known]
            stacked[task] = torch.from_numpy(np.stack(rows)).unsqueeze(1)
    return stacked


def _invalid_label(task: Task, height: int, width: int) -> NDArray[Any]:
    kind = TASK_KINDS[task]
    shape = (height, width, 3) if kind == "direction" else (height, width)
    return np.full(shape, INVALID_VALUES[kind], np.uint8 if kind == "classes" else np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one training or evaluation step sees.

    Attributes:
        images: float32 [B, 3, H, W] in [-1, 1].
        labels: ``normals`` float32 [B, 3, H, W], unit or all-zero; ``depth`` float32
            [B, 1, H, W] in metres, 0 = invalid; ``semseg`` and ``human_parts`` int64 [B, H, W],
            255 = ignore; ``saliency`` and ``boundaries`` float32 [B, 1, H, W] in [0, 1],
            -1 = ignore.
        is_synthetic: bool [B].
        keys: Names of the samples.
        captions: What the images are said to show; "" where that is not known.
        versions: int64 [B], version of the creation weights behind the labels, -1 if real.
        weights: Task to float32 [B, 1, H, W] in [0, 1], what each pixel counts in the loss; 1 for
            all pixels of a task that is missing, and of real samples.
    """

    images: Tensor
    labels: dict[Task, Tensor]
    is_synthetic: Tensor
    keys: tuple[str, ...]
    captions: tuple[str, ...]
    versions: Tensor
    weights: dict[Task, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.keys)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the images."""
        height, width = self.images.shape[-2:]
        return height, width

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with all tensors on a device."""
        return Batch(
            images=self.images.to(device),
            labels={task: label.to(device) for task, label in self.labels.items()},
            is_synthetic=self.is_synthetic.to(device),
            keys=self.keys,
            captions=self.captions,
            versions=self.versions.to(device),
            weights={task: weight.to(device) for task, weight in self.weights.items()},
        )
