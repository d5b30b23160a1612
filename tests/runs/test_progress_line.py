"""What the terminal shows while a run is going on."""

from __future__ import annotations

import pytest

from evaluation.scores import HEADLINE_METRICS
from runs.progress import RunView, validation_rows, view_rows
from schemas.sample import TASKS


def test_each_task_is_shown_with_its_own_metric_and_unit():
    validation = {f"{task}_{HEADLINE_METRICS[task].name}": 0.25 for task in TASKS}
    rows = dict(view_rows(RunView(training={"step": 1, "validation": validation})))
    assert {task: rows[f"validation {task}"] for task in TASKS} == {
        "normals": "mean 0.25°",
        "depth": "RMSE 0.250 m",
        "semseg": "mIoU 25.0%",
        "human_parts": "mIoU 25.0%",
        "saliency": "maxF 25.0%",
        "boundaries": "odsF 25.0%",
    }


@pytest.mark.parametrize("training", [{}, {"step": 1}, {"validation": {"depth_rmse_m": 1.5}}])
def test_what_is_not_known_is_left_out(training):
    labels = [label for label, _ in view_rows(RunView(training=training))]
    assert ("validation depth" in labels) == bool(training.get("validation"))
    assert "validation normals" not in labels


def test_a_creators_losses_on_validation_images_are_rows_of_their_own():
    rows = validation_rows({"denoising_loss": 0.36974})
    assert rows == [("validation denoising loss", "0.3697")]
