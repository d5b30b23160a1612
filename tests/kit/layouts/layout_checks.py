"""What has to hold of every layout, whatever its files; used by the layouts' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from schemas.sample import IGNORE_ID, IGNORE_PROBABILITY, NUM_HUMAN_PARTS, TASK_KINDS, Sample
from sources.layouts.protocol import LayoutOptions
from sources.layouts.registry import find_layout, recognise

if TYPE_CHECKING:
    from pathlib import Path

NO_OPTIONS = LayoutOptions()


def read_layout(name: str, root: Path, options: LayoutOptions = NO_OPTIONS) -> dict[str, Sample]:
    """Open a layout, check it against the protocol, and give all its samples by key.

    The folder has to be readable throughout: a SampleError is not caught.
    """
    layout = find_layout(name)
    assert recognise(root) == (name,)
    files = layout.open(root, options)
    keys = [key for part in files.splits().values() for key in part]
    assert keys
    assert len(set(keys)) == len(keys)
    assert not any(sign in key for key in keys for sign in "./\\")
    assert len(files.class_names) in (0, files.num_classes)
    assert ("semseg" in files.tasks) == (files.num_classes > 0)
    samples = {key: files.read(key) for key in keys}
    for key, sample in samples.items():
        assert sample.key == key
        assert set(sample.labels) <= set(files.tasks)
        check_encodings(sample, files.num_classes)
        assert (root / sample.meta["file"]).exists()
    return samples


def check_encodings(sample: Sample, num_classes: int) -> None:
    """Check that image and labels are encoded as ``schemas.sample`` says."""
    size = sample.image.shape[:2]
    assert sample.image.dtype == np.uint8
    assert sample.image.shape == (*size, 3)
    for task, label in sample.labels.items():
        assert label.shape == ((*size, 3) if task == "normals" else size), task
        _CHECKS[TASK_KINDS[task]](label, num_classes if task == "semseg" else NUM_HUMAN_PARTS)


def _check_direction(normals: np.ndarray, _: int) -> None:
    assert normals.dtype == np.float32
    length = np.linalg.norm(normals, axis=-1)
    assert np.all((length == 0) | (np.abs(length - 1) < 1e-5))


def _check_distance(depth_m: np.ndarray, _: int) -> None:
    assert depth_m.dtype == np.float32
    assert np.isfinite(depth_m).all()
    assert depth_m.min() >= 0


def _check_classes(ids: np.ndarray, count: int) -> None:
    assert ids.dtype == np.uint8
    assert np.all((ids < count) | (ids == IGNORE_ID))


def _check_probability(values: np.ndarray, _: int) -> None:
    assert values.dtype == np.float32
    assert np.all((values == IGNORE_PROBABILITY) | ((values >= 0) & (values <= 1)))


_CHECKS = {
    "direction": _check_direction,
    "distance": _check_distance,
    "classes": _check_classes,
    "probability": _check_probability,
}
