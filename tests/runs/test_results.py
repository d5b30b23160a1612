"""The table at the end of a run."""

from __future__ import annotations

import io

from rich.console import Console

from runs.results import COLUMNS, results_table
from schemas.sample import TASKS
from schemas.stages import RESULT_ROWS


def test_every_task_has_columns_of_its_own():
    assert set(COLUMNS) == set(TASKS)
    headers = [header for columns in COLUMNS.values() for _, header, _ in columns]
    assert len(set(headers)) == len(headers)


def test_the_headline_metrics_of_the_probability_tasks_are_shown():
    assert COLUMNS["saliency"][0][0] == "max_f"
    assert COLUMNS["boundaries"][0][0] == "ods_f"
    assert [key for key, _, _ in COLUMNS["human_parts"]] == ["miou", "pixel_accuracy"]


def test_the_table_has_a_row_for_each_scored_weights_and_a_column_for_each_metric():
    scores = {task: {key: 0.25 for key, _, _ in columns} for task, columns in COLUMNS.items()}
    table = results_table(dict.fromkeys(RESULT_ROWS[:2], scores))
    assert table.row_count == 2
    assert len(table.columns) == 1 + sum(len(columns) for columns in COLUMNS.values())
    console = Console(file=io.StringIO(), width=400)
    console.print(table)
    for text in (RESULT_ROWS[0], "maxF", "odsF", "parts mIoU", "mean °", "25.0%"):
        assert text in console.file.getvalue()
