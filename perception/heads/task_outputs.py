"""Raw outputs of the multi-task methods: channels of each task, and the way to the image's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from perception.geometry import resized
from schemas.sample import TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from schemas.sample import Task

_SMALLEST_DEPTH_M = 1e-3
_START_DEPTH_M = 2.0


def output_channels(task: Task, num_classes: Mapping[Task, int]) -> int:
    """Channels of a task's raw output.

    Args:
        num_classes: Classes of each task whose labels are class ids.

    Raises:
        ValueError: If the number of classes of such a task is missing.
    """
    kind = TASK_KINDS[task]
    if kind == "direction":
        return 3
    if kind != "classes":
        return 1
    found = num_classes.get(task, 0)
    if found < 2:
        raise ValueError(
            f"{task}: wanted num_classes above 1, found {found}; state the number of classes of "
            "the source"
        )
    return found


def finish_outputs(heads: Mapping[Task, Tensor], size: tuple[int, int]) -> dict[Task, Tensor]:
    """Bring head outputs to the image's size, and depth to positive metres.

    Args:
        heads: Task to [B, C, h, w].

    Returns:
        Task to float32 [B, C, *size], as ``perception.losses.multi_task`` reads them; a depth
        output of 0 means about 2 m.
    """
    raised = {task: resized(output.float(), size) for task, output in heads.items()}
    if "depth" in raised:
        raised["depth"] = functional.softplus(raised["depth"] + _START_DEPTH_M) + _SMALLEST_DEPTH_M
    return raised
