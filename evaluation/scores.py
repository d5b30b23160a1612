"""All metric families of a set of tasks behind one update, merge and compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.depth import DepthMetrics
from evaluation.normals import NormalsMetrics
from evaluation.segmentation import SegmentationMetrics
from schemas.sample import Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from evaluation.accumulator import Accumulator

Scores = dict[Task, dict[str, float]]
"""Task to metric to value, as ``results.json`` holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadlineMetric:
    """The one metric by which a task is compared.

    Attributes:
        name: Its key in the task's scores.
        lower_is_better: Its direction.
    """

    name: str
    lower_is_better: bool


HEADLINE_METRICS: dict[Task, HeadlineMetric] = {
    "normals": HeadlineMetric(name="mean_deg", lower_is_better=True),
    "depth": HeadlineMetric(name="rmse_m", lower_is_better=True),
    "semseg": HeadlineMetric(name="miou", lower_is_better=False),
}


def score(
    predictions: Mapping[Task, Tensor], labels: Mapping[Task, Tensor], *, num_classes: int = 0
) -> Scores:
    """Score one batch; see :class:`ScoreBoard` for more than one.

    Args:
        predictions: Task to prediction, encoded like labels.
        labels: At least the tasks of ``predictions``.
        num_classes: Classes of semseg.
    """
    board = ScoreBoard(tuple(predictions), num_classes=num_classes)
    board.update(predictions, labels)
    return board.compute()


def multi_task_gain_pct(scores: Scores, baseline: Scores) -> float:
    """Mean relative gain over a baseline, in per cent, positive is better.

    Δ_m = (100 / T) Σ_t (-1)^{l_t} (M_t - B_t) / B_t, with l_t = 1 where lower is better, on the
    headline metrics (Maninis et al., 2019).

    Args:
        scores: Scores of the method.
        baseline: Scores of single-task models; holds at least the tasks of ``scores``.
    """
    gains = []
    for task, metrics in scores.items():
        headline = HEADLINE_METRICS[task]
        change = metrics[headline.name] / baseline[task][headline.name] - 1
        gains.append(-change if headline.lower_is_better else change)
    return 100 * sum(gains) / len(gains)


def make_metrics(task: Task, *, num_classes: int = 0) -> Accumulator:
    """Make the empty metric family of a task.

    Raises:
        ValueError: If semseg comes without its number of classes.
    """
    if task == "normals":
        return NormalsMetrics()
    if task == "depth":
        return DepthMetrics()
    if num_classes > 1:
        return SegmentationMetrics(num_classes)
    raise ValueError(
        f"{task}: wanted num_classes above 1, found {num_classes}; "
        "state the number of classes of the source"
    )


class ScoreBoard:
    """The metric families of several tasks.

    Args:
        tasks: What to score.
        num_classes: Classes of semseg.
    """

    def __init__(self, tasks: Sequence[Task], *, num_classes: int = 0) -> None:
        self.metrics: dict[Task, Accumulator] = {
            task: make_metrics(task, num_classes=num_classes) for task in tasks
        }

    def update(self, predictions: Mapping[Task, Tensor], labels: Mapping[Task, Tensor]) -> None:
        """Count a batch: normals [B, 3, H, W], depth_m [B, 1, H, W], semseg ids [B, H, W]."""
        for task, metrics in self.metrics.items():
            found = predictions[task]
            metrics.update(found, labels[task].to(found.device))

    def merge(self, other: ScoreBoard) -> None:
        """Count everything that another worker's board counted as well.

        Raises:
            ValueError: If the boards do not hold the same tasks.
        """
        if self.metrics.keys() != other.metrics.keys():
            raise ValueError(
                f"wanted tasks {sorted(self.metrics)}, found {sorted(other.metrics)}; "
                "score the same tasks everywhere"
            )
        for task, metrics in self.metrics.items():
            metrics.merge(other.metrics[task])

    def compute(self) -> Scores:
        """Return the metrics of every task."""
        return {task: metrics.compute() for task, metrics in self.metrics.items()}
