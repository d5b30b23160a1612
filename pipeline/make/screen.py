"""Keep a synthetic sample or name the reason to drop it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.make.rows import filtered_row, numbers_json
from schemas.sample import INVALID_VALUES, RELIABILITY_MEASURES, TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.make.rows import Draft
    from schemas.config_labelling import ScreeningSection
    from schemas.manifest import ManifestRow
    from schemas.sample import Task


def screen_image(draft: Draft, settings: ScreeningSection) -> Draft:
    """Note the image's figures on its row, and take the sample out if they are bad."""
    if not draft.is_in:
        return draft
    row = replace(draft.row, quality=numbers_json({"pixel_std": pixel_std(draft.image)}))
    return _judged(draft, row, image_reason(draft.image, settings))


def screen_labels(draft: Draft, settings: ScreeningSection) -> Draft:
    """Note the labels' figures on the row, and take the sample out if they are bad."""
    if not draft.is_in:
        return draft
    means = mean_reliability(draft.reliability)
    stats = {f"{task}_confidence": mean for task, mean in means.items()}
    stats |= {f"{task}_agreement": share for task, share in draft.agreement.items()}
    row = replace(draft.row, label_stats=numbers_json(stats))
    reason = label_reason(draft.labels, draft.reliability, settings, agreement=draft.agreement)
    return _judged(draft, row, reason)


def _judged(draft: Draft, row: ManifestRow, reason: str | None) -> Draft:
    return draft.out(filtered_row(row, reason)) if reason else replace(draft, row=row)


def image_reason(image: NDArray[np.uint8], settings: ScreeningSection) -> str | None:
    """Judge an image alone.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        ``degenerate_image`` for one that is nearly a single colour, else None.
    """
    return "degenerate_image" if pixel_std(image) < settings.min_pixel_std else None


def label_reason(
    labels: Mapping[Task, NDArray[Any]],
    reliability: Mapping[Task, NDArray[np.float32]],
    settings: ScreeningSection,
    *,
    agreement: Mapping[Task, float] | None = None,
) -> str | None:
    """Judge the labels of an image.

    Args:
        reliability: Task to float32 [H, W]; degrees for normals (lower is surer), in [0, 1] for
            the others (higher is surer).
        agreement: Task to the share of pixels where prediction and creator's map agree.

    Returns:
        ``not_finite``, ``disagreeing_<task>``, ``unlabelled_<task>`` (every pixel is invalid),
        ``uncertain_<task>``, or None to keep the sample.
    """
    arrays = (*labels.values(), *reliability.values())
    if not all(np.isfinite(array).all() for array in arrays):
        return "not_finite"
    for task, share in (agreement or {}).items():
        if share < settings.min_agreement:
            return f"disagreeing_{task}"
    for task, label in labels.items():
        if not is_labelled(label, task):
            return f"unlabelled_{task}"
    for task, mean in mean_reliability(reliability).items():
        if RELIABILITY_MEASURES[task] == "expected_error_deg":
            unsure = mean > settings.max_expected_error_deg
        else:
            unsure = mean < settings.min_confidence
        if unsure:
            return f"uncertain_{task}"
    return None


def is_labelled(label: NDArray[Any], task: Task) -> bool:
    """Whether any pixel of a label has a value."""
    return not (label == INVALID_VALUES[TASK_KINDS[task]]).all()


def pixel_std(image: NDArray[np.uint8]) -> float:
    """Standard deviation over all pixels and channels, in 8-bit steps."""
    return float(image.std())


def mean_reliability(reliability: Mapping[Task, NDArray[np.float32]]) -> dict[Task, float]:
    """Mean over the image of each task's reliability, in its own unit."""
    return {task: float(values.mean()) for task, values in reliability.items()}
