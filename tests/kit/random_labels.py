"""Random label maps of every task, some of their pixels invalid."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.sample import INVALID_VALUES, NUM_HUMAN_PARTS, TASK_KINDS, TASKS, Sample, Task

NUM_CLASSES = 20


def random_label(
    task: Task, size: tuple[int, int] = (6, 8), *, seed: int = 0, invalid: float = 0.2
) -> np.ndarray[Any, Any]:
    """Encoded as ``schemas.sample`` says; about a share ``invalid`` of the pixels has no label."""
    rng = np.random.default_rng([seed, TASKS.index(task)])
    kind = TASK_KINDS[task]
    if kind == "direction":
        label = rng.normal(size=(*size, 3)).astype(np.float32)
        label /= np.linalg.norm(label, axis=-1, keepdims=True)
    elif kind == "distance":
        label = rng.uniform(0.5, 9.0, size).astype(np.float32)
    elif kind == "classes":
        count = NUM_HUMAN_PARTS if task == "human_parts" else NUM_CLASSES
        label = rng.integers(0, count, size, dtype=np.uint8)
    else:
        label = rng.uniform(0, 1, size).astype(np.float32)
    label[rng.random(size) < invalid] = INVALID_VALUES[kind]
    return label


def is_invalid(label: np.ndarray[Any, Any], task: Task) -> np.ndarray[Any, Any]:
    """Bool [H, W]: the pixels without a label."""
    found = label == INVALID_VALUES[TASK_KINDS[task]]
    return found.all(axis=-1) if TASK_KINDS[task] == "direction" else found


def random_sample(seed: int = 0, *, size: tuple[int, int] = (6, 8)) -> Sample:
    """A synthetic sample with labels, confidence and its creator's maps of all tasks."""
    rng = np.random.default_rng(seed)
    top = {task: 180.0 if TASK_KINDS[task] == "direction" else 1.0 for task in TASKS}
    return Sample(
        key=f"s{seed}",
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        labels={task: random_label(task, size, seed=seed) for task in TASKS},
        reliability={task: rng.uniform(0, top[task], size).astype(np.float32) for task in TASKS},
        creator_maps={task: random_label(task, size, seed=seed)[::-1].copy() for task in TASKS},
        caption="a small room with a red chair",
        is_synthetic=True,
        meta={"seed": 3, "camera": {"fov_deg": 60.0}},
    )
