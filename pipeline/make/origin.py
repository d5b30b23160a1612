"""Where the labels of a synthetic image come from: a choice between what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from perception.pairs.agreement import Limits, agreeing_pixels
from schemas.errors import SampleError
from schemas.sample import INVALID_VALUES, TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from schemas.config_labelling import LabellingSection
    from schemas.sample import LabelOrigin, Task


class Agree(Protocol):
    """Compares two labels of one image, by thresholds of its own."""

    def __call__(
        self, task: Task, label: NDArray[Any], other: NDArray[Any]
    ) -> tuple[NDArray[Any], float]:
        """Keep a label where another one says the same.

        Args:
            label: Encoded as in :class:`schemas.sample.Sample`; so is ``other``.

        Returns:
            ``label``, with the task's invalid value elsewhere; and the share of pixels, in [0, 1],
            where both agree.
        """


def agree_within(settings: LabellingSection) -> Agree:
    """Compare labels pixel by pixel, by the thresholds of the configuration."""
    limits = Limits(
        angle_deg=settings.max_disagreement_deg,
        ratio=settings.max_disagreement_ratio,
        probability=settings.max_disagreement_probability,
    )

    def agree(task: Task, label: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[Any], float]:
        agrees = agreeing_pixels(task, _as_batch(label), _as_batch(other), limits)[0, 0].numpy()
        kept = label.copy()
        kept[~agrees] = INVALID_VALUES[TASK_KINDS[task]]
        return kept, float(agrees.mean())

    return agree


def _as_batch(label: NDArray[Any]) -> Tensor:
    """A batch of one label in the form of ``Labels``."""
    batch = torch.from_numpy(np.ascontiguousarray(label)).unsqueeze(0)
    if label.ndim == 3:
        return batch.permute(0, 3, 1, 2)
    return batch.long() if label.dtype == np.uint8 else batch.unsqueeze(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinions:
    """What is known of the labels of one image; arrays as in :class:`schemas.sample.Sample`.

    Attributes:
        predicted: Task to the creation weights' label.
        reliability: Task to the reliability of that label.
        made: Task to the map that the creator made with the image.
        given: Task to the label that the image was made from.
    """

    predicted: Mapping[Task, NDArray[Any]] = field(default_factory=dict)
    reliability: Mapping[Task, NDArray[np.float32]] = field(default_factory=dict)
    made: Mapping[Task, NDArray[Any]] = field(default_factory=dict)
    given: Mapping[Task, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The labels of one image.

    Attributes:
        labels: Task to label.
        reliability: Task to reliability, of predicted labels alone.
        agreement: Task to the share of pixels where creation weights and creator agree.
    """

    labels: Mapping[Task, NDArray[Any]]
    reliability: Mapping[Task, NDArray[np.float32]]
    agreement: Mapping[Task, float] = field(default_factory=dict)


def choose_labels(origin: LabelOrigin, opinions: Opinions, *, agree: Agree | None = None) -> Chosen:
    """Choose an image's labels.

    A task of which the origin knows nothing keeps the label that is predicted.

    Args:
        agree: Needed by ``agreed``; for any origin, the agreement is measured where it is given.

    Raises:
        SampleError: ``labels_missing`` if the origin knows of no task at all.
        ValueError: If ``agreed`` has nothing that compares.
    """
    if origin == "agreed" and agree is None:
        raise ValueError("labels of origin agreed: wanted what compares them, found None; give it")
    compared = {} if agree is None else _compared(opinions, agree)
    agreed = {task: label for task, (label, _) in compared.items()}
    shares = {task: share for task, (_, share) in compared.items()}
    known: dict[LabelOrigin, Mapping[Task, NDArray[Any]]] = {
        "creation": opinions.predicted,
        "creator": opinions.made,
        "agreed": agreed,
        "given": opinions.given,
    }
    if not known[origin]:
        raise SampleError(
            "labels_missing",
            f"wanted labels of origin {origin}, found none; choose another origin, or a creator "
            "that has them",
        )
    labels = {**opinions.predicted, **known[origin]}
    foreign = known[origin].keys() if origin in {"creator", "given"} else set()
    reliability = {t: each for t, each in opinions.reliability.items() if t not in foreign}
    return Chosen(labels=labels, reliability=reliability, agreement=shares)


def _compared(opinions: Opinions, agree: Agree) -> dict[Task, tuple[NDArray[Any], float]]:
    both = [task for task in opinions.predicted if task in opinions.made]
    return {task: agree(task, opinions.predicted[task], opinions.made[task]) for task in both}
