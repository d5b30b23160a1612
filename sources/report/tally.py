"""What is counted of the samples of a data set, to report what is odd."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.sample import IGNORE_ID, TASK_KINDS, Sample, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BINS_PER_OCTAVE = 16
_RANGE_M = (1e-6, 1e9)


@dataclass(kw_only=True)
class TaskTally:
    """Labels of one task.

    Attributes:
        images: Samples that have such a label.
        pixels: All their pixels.
        ignored: Pixels without a value.
        least: Least value; None if there is none. Of ``normals`` nothing.
        greatest: Greatest value, likewise.
        ids: Pixels by class id, as text.
        showing: Images by class id that occurs in them, as text.
        bins: Of ``depth``: pixels by the nearest sixteenth of an octave of metres, as text.
        sums: Of ``normals``: sums of components and their counts, see :func:`_direction_sums`.
    """

    images: int = 0
    pixels: int = 0
    ignored: int = 0
    least: float | None = None
    greatest: float | None = None
    ids: Counter[str] = field(default_factory=Counter)
    showing: Counter[str] = field(default_factory=Counter)
    bins: Counter[str] = field(default_factory=Counter)
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, other: TaskTally) -> None:
        """Count what another has counted."""
        self.images += other.images
        self.pixels += other.pixels
        self.ignored += other.ignored
        self.least = _extreme(min, self.least, other.least)
        self.greatest = _extreme(max, self.greatest, other.greatest)
        self.ids.update(other.ids)
        self.showing.update(other.showing)
        self.bins.update(other.bins)
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0) + value

    @property
    def median(self) -> float | None:
        """Of ``depth``: the middle of the values, to 2 %; None if there is none."""
        left = sum(self.bins.values()) / 2
        for place in sorted(self.bins, key=int):
            left -= self.bins[place]
            if left <= 0:
                return float(2 ** (int(place) / _BINS_PER_OCTAVE))
        return None

    def mean(self, name: str) -> float | None:
        """A mean of ``sums``; None if nothing was counted."""
        count = self.sums.get(f"{name}_count")
        return self.sums[name] / count if count else None


@dataclass(kw_only=True)
class SplitTally:
    """Samples of one split.

    Attributes:
        images: Samples that were converted.
        captions: Those of them with a caption.
        failed: Samples that were not, by reason.
        sizes: Samples by size as stored in the data set, ``height x width``.
        tasks: Labels by task.
    """

    images: int = 0
    captions: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    tasks: dict[Task, TaskTally] = field(default_factory=dict)

    @property
    def num_failed(self) -> int:
        """Samples that were not converted."""
        return sum(self.failed.values())

    def add(self, other: SplitTally) -> None:
        """Count what another has counted."""
        self.images += other.images
        self.captions += other.captions
        self.failed.update(other.failed)
        self.sizes.update(other.sizes)
        for task, tally in other.tasks.items():
            self.tasks.setdefault(task, TaskTally()).add(tally)

    def to_json(self) -> str:
        """As text that :func:`tally_from_json` reads back."""
        return json.dumps(self, default=vars, sort_keys=True)


def tally_from_json(text: str) -> SplitTally:
    """What :meth:`SplitTally.to_json` wrote."""
    tree = json.loads(text)
    return SplitTally(
        images=tree["images"],
        captions=tree["captions"],
        failed=Counter(tree["failed"]),
        sizes=Counter(tree["sizes"]),
        tasks={
            task: TaskTally(
                **{**one, **{name: Counter(one.get(name)) for name in ("ids", "showing", "bins")}}
            )
            for task, one in tree["tasks"].items()
        },
    )


def tally_sample(sample: Sample, *, stored_size: tuple[int, ...]) -> SplitTally:
    """Count one sample.

    Args:
        stored_size: Height and width that it had in the data set.
    """
    height, width = stored_size
    tasks = {task: _tally_label(label, task) for task, label in sample.labels.items()}
    norm = sample.meta.get("normals_norm", 0)
    if "normals" in tasks and norm > 0:
        tasks["normals"].sums.update({"norm": norm, "norm_count": 1})
    return SplitTally(
        images=1,
        captions=int(bool(sample.caption)),
        sizes=Counter({f"{height} x {width}": 1}),
        tasks=tasks,
    )


def _tally_label(label: NDArray[Any], task: Task) -> TaskTally:
    kind = TASK_KINDS[task]
    if kind == "direction":
        is_valid = np.any(label != 0, axis=-1)
    elif kind == "distance":
        is_valid = label > 0
    elif kind == "classes":
        is_valid = label != IGNORE_ID
    else:
        is_valid = label >= 0
    tally = TaskTally(images=1, pixels=is_valid.size, ignored=int((~is_valid).sum()))
    if kind == "direction":
        tally.sums.update(_direction_sums(label, is_valid))
        return tally
    values = label[is_valid]
    if values.size:
        tally.least, tally.greatest = float(values.min()), float(values.max())
    if kind == "classes":
        tally.ids = _counted(values)
        tally.showing = Counter(dict.fromkeys(tally.ids, 1))
    if kind == "distance":
        octaves = np.log2(np.clip(values, *_RANGE_M))
        tally.bins = _counted(np.rint(octaves * _BINS_PER_OCTAVE).astype(np.int64))
    return tally


def _counted(whole: NDArray[Any]) -> Counter[str]:
    """How often each whole number occurs."""
    if not whole.size:
        return Counter()
    least = whole.min()
    counts = np.bincount(whole - least)
    return Counter({str(int(least) + i): int(counts[i]) for i in np.flatnonzero(counts).tolist()})


def _direction_sums(normals: NDArray[Any], is_valid: NDArray[Any]) -> dict[str, float]:
    """Sums that show how the axes point, and the counts to divide them by.

    In a picture of a room, taken upright: what is seen faces the camera (z), floors are below and
    ceilings above (y), and walls at the left face right (x).
    """
    height, width = is_valid.shape
    third, side = max(height // 3, 1), max(width // 3, 1)
    parts = {
        "x": (slice(None), slice(None), 0),
        "y": (slice(None), slice(None), 1),
        "z": (slice(None), slice(None), 2),
        "y_below": (slice(height - third, None), slice(None), 1),
        "y_above": (slice(None, third), slice(None), 1),
        "x_left": (slice(None), slice(None, side), 0),
        "x_right": (slice(None), slice(width - side, None), 0),
    }
    sums: dict[str, float] = {}
    for name, (rows, columns, axis) in parts.items():
        sums[name] = float(normals[rows, columns, axis].sum(dtype=np.float64))
        sums[f"{name}_count"] = int(is_valid[rows, columns].sum())
    return sums


def _extreme(choose: Any, one: float | None, other: float | None) -> float | None:
    values = [value for value in (one, other) if value is not None]
    return float(choose(values)) if values else None
