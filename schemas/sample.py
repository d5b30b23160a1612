"""One image with labels, in memory and as members of a tar.

In memory: ``image`` uint8 RGB [H, W, 3]; ``normals`` float32 [H, W, 3], unit vectors in the camera
frame (x right, y up, z toward the camera), all-zero where invalid; ``depth`` float32 [H, W] in
metres, 0 where invalid; ``semseg`` and ``human_parts`` uint8 [H, W] class ids, 255 = ignore;
``saliency`` and ``boundaries`` float32 [H, W], probability in [0, 1], -1 = ignore.

In a tar, members of a key are contiguous and in the order of ``MEMBER_ORDER``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import numpy as np

Task = Literal["normals", "depth", "semseg", "human_parts", "saliency", "boundaries"]
TASKS: tuple[Task, ...] = get_args(Task)

TaskKind = Literal["direction", "distance", "classes", "probability"]
TASK_KINDS: dict[Task, TaskKind] = {
    "normals": "direction",
    "depth": "distance",
    "semseg": "classes",
    "human_parts": "classes",
    "saliency": "probability",
    "boundaries": "probability",
}
"""What the values of a task's label are; arrays of one kind are treated alike everywhere."""

NUM_HUMAN_PARTS = 7
"""Background, head, torso, upper arms, lower arms, upper legs, lower legs."""

IGNORE_ID = 255
"""Class id that no loss and no metric counts."""

IGNORE_PROBABILITY = -1.0
"""Value of a probability label that no loss and no metric counts."""

INVALID_VALUES: dict[TaskKind, float] = {
    "direction": 0.0,
    "distance": 0.0,
    "classes": IGNORE_ID,
    "probability": IGNORE_PROBABILITY,
}
"""What a pixel without a label holds, in every channel."""

ReliabilityMeasure = Literal["expected_error_deg", "confidence"]
"""How sure a method is of a pixel: the expected angular error in degrees, lower is surer; or a
confidence in [0, 1], higher is surer."""

RELIABILITY_MEASURES: dict[Task, ReliabilityMeasure] = {
    task: "expected_error_deg" if kind == "direction" else "confidence"
    for task, kind in TASK_KINDS.items()
}

LabelOrigin = Literal["creation", "creator", "agreed", "given"]
"""Where labels of a synthetic image come from: the creation weights predict them from the image;
its creator made them with it; the former, where the latter agree; the image was made from them."""

CAPTION_ERROR = "caption_error"
"""In ``meta``: why a sample's caption cannot be used and is empty; its image and labels can."""

IMAGE_MEMBER = "image.png"
JSON_MEMBER = "json"
LABEL_MEMBERS: dict[Task, str] = {task: f"{task}.png" for task in TASKS}
RELIABILITY_MEMBERS: dict[Task, str] = {task: f"{task}_confidence.png" for task in TASKS}
CREATOR_MEMBERS: dict[Task, str] = {task: f"{task}_creator.png" for task in TASKS}
"""Maps that a creator made with the image, in the encoding of labels."""

MEMBER_ORDER: tuple[str, ...] = (
    IMAGE_MEMBER,
    *LABEL_MEMBERS.values(),
    *RELIABILITY_MEMBERS.values(),
    *CREATOR_MEMBERS.values(),
    JSON_MEMBER,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        key: Unique name within its source; no dots, no slashes.
        image: uint8 RGB [H, W, 3].
        labels: Task name to label array, encoded as the module docstring says.
        reliability: Task name to float32 [H, W], in the measure of ``RELIABILITY_MEASURES``.
            Synthetic only.
        creator_maps: Task name to the map that the creator made with the image, encoded as a label;
            whether it is the label, too, is another question. Synthetic only.
        caption: Text that describes the image; empty if unknown.
        is_synthetic: Whether the image came from a creator.
        meta: Everything else that the json member holds (provenance, scene seed, …).
    """

    key: str
    image: np.ndarray[Any, Any]
    labels: dict[Task, np.ndarray[Any, Any]]
    reliability: dict[Task, np.ndarray[Any, Any]] = field(default_factory=dict)
    creator_maps: dict[Task, np.ndarray[Any, Any]] = field(default_factory=dict)
    caption: str = ""
    is_synthetic: bool = False
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadableSample:
    """A sample that a source could not read; it becomes a ``failed`` manifest row.

    Attributes:
        key: The key it would have had.
        uri: Where it lies.
        reason: A short, stable word for counting.
        detail: What was wanted, found, and what to do.
    """

    key: str
    uri: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceShard:
    """A group of samples of a source that are read together.

    Attributes:
        name: Unique within the source and stable over runs; no slashes.
        uri: A tar's URL, or the folder the files lie in.
        keys: All keys it holds, in reading order.
    """

    name: str
    uri: str
    keys: tuple[str, ...]
