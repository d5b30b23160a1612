"""All metric families of a set of tasks behind one update, merge and compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.boundaries import BoundaryMetrics
from evaluation.depth import make_depth_metrics
from evaluation.normals import NormalsMetrics
from evaluation.saliency import make_saliency_metrics
from evaluation.segmentation import SegmentationMetrics
from schemas.config_metrics import MetricsSection
from schemas.sample import NUM_HUMAN_PARTS, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    "human_parts": HeadlineMetric(name="miou", lower_is_better=False),
    "saliency": HeadlineMetric(name="max_f", lower_is_better=False),
    "boundaries": HeadlineMetric(name="ods_f", lower_is_better=False),
}

DEFAULT_OPTIONS = MetricsSection()


def score(
    predictions: Mapping[Task, Tensor],
    labels: Mapping[Task, Tensor],
    *,
    num_classes: int = 0,
    options: MetricsSection = DEFAULT_OPTIONS,
) -> Scores:
    """Score one batch; see :class:`ScoreBoard` for more than one.

    Args:
        labels: At least the tasks of ``predictions``.
    """
    board = ScoreBoard(tuple(predictions), num_classes=num_classes, options=options)
    board.update(predictions, labels)
    return board.compute()


def multi_task_gain_pct(scores: Scores, baseline: Scores) -> float:
    """Mean relative gain over a baseline, in per cent, positive is better.

    Δ_m = (100 / T) Σ_t (-1)^{l_t} (M_t - B_t) / B_t, with l_t = 1 where lower is better, on the
    headline metrics (Maninis et al., 2019).

    Args:
        baseline: Scores of single-task models; holds at least the tasks of ``scores``.
    """
    gains = []
    for task, metrics in scores.items():
        headline = HEADLINE_METRICS[task]
        change = metrics[headline.name] / baseline[task][headline.name] - 1
        gains.append(-change if headline.lower_is_better else change)
    return 100 * sum(gains) / len(gains)


def make_metrics(
    task: Task, *, num_classes: int = 0, options: MetricsSection = DEFAULT_OPTIONS
) -> Accumulator:
    """Make the empty metric family of a task.

    Args:
        num_classes: Classes of semseg; human parts have seven.

    Raises:
        ValueError: If semseg comes without its number of classes.
    """
    if task == "semseg" and num_classes < 2:
        raise ValueError(
            f"{task}: wanted num_classes above 1, found {num_classes}; "
            "state the number of classes of the source"
        )
    makers: dict[Task, Callable[[], Accumulator]] = {
        "normals": NormalsMetrics,
        "depth": lambda: make_depth_metrics(
            protocol=options.depth_protocol,
            min_depth_m=options.depth_min_m,
            max_depth_m=options.depth_max_m,
        ),
        "semseg": lambda: SegmentationMetrics(num_classes, absent_classes=options.absent_classes),
        "human_parts": lambda: SegmentationMetrics(
            NUM_HUMAN_PARTS, absent_classes=options.absent_classes
        ),
        "saliency": lambda: make_saliency_metrics(
            protocol=options.saliency_protocol, double_sigmoid=options.saliency_double_sigmoid
        ),
        "boundaries": lambda: BoundaryMetrics(
            num_thresholds=options.boundary_thresholds,
            tolerance=options.boundary_tolerance,
            nms=options.boundary_nms,
        ),
    }
    return makers[task]()


class ScoreBoard:
    """The metric families of several tasks."""

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        num_classes: int = 0,
        options: MetricsSection = DEFAULT_OPTIONS,
    ) -> None:
        self.metrics: dict[Task, Accumulator] = {
            task: make_metrics(task, num_classes=num_classes, options=options) for task in tasks
        }

    def update(self, predictions: Mapping[Task, Tensor], labels: Mapping[Task, Tensor]) -> None:
        """Count a batch.

        Normals [B, 3, H, W]; depth in metres and probabilities [B, 1, H, W]; class ids [B, H, W].
        """
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

    def iou_per_class(self) -> dict[Task, list[float]]:
        """Intersection over union of each class, of tasks with classes; see their metrics."""
        return {
            task: metrics.iou_per_class().tolist()
            for task, metrics in self.metrics.items()
            if isinstance(metrics, SegmentationMetrics)
        }

    def compute(self) -> Scores:
        """Return the metrics of every task."""
        return {task: metrics.compute() for task, metrics in self.metrics.items()}
