"""The tables at the end of a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evaluation.scores import HEADLINE_METRICS
from runs.results import COLUMNS, gain_lines, scores_table, summary_table
from schemas.sample import TASKS
from schemas.stages import RESULT_ROWS

WIDTH = 80


def printed(table):
    console = Console(file=io.StringIO(), width=WIDTH)
    console.print(table)
    return console.file.getvalue()


def scores_of(tasks, value=0.25):
    return {task: {key: value for key, _, _ in COLUMNS[task]} for task in tasks}


def test_every_task_has_columns_and_its_headline_metric_is_the_first():
    assert {task: columns[0][0] for task, columns in COLUMNS.items()} == {
        task: HEADLINE_METRICS[task].name for task in TASKS
    }
    for columns in COLUMNS.values():
        headers = [header for _, header, _ in columns]
        assert len(set(headers)) == len(headers)


@pytest.mark.parametrize("tasks", [("normals",), TASKS])
def test_a_table_names_all_weights_and_metrics_in_80_columns(tasks):
    names = [*RESULT_ROWS, "v12"]
    text = printed(scores_table(dict.fromkeys(names, scores_of(tasks, 99.99)), title="test split"))
    lines = text.splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    assert "…" not in text
    for name in names:
        assert sum(line.split()[:1] == [name] for line in lines) == len(tasks)
    for task in tasks:
        assert f"{task}, test split" in text
        assert all(header in text for _, header, _ in COLUMNS[task])


def test_the_gain_is_that_of_every_tasks_headline_metric():
    results = {"real_only_control": scores_of(TASKS, 0.5), "self_improved": scores_of(TASKS, 0.4)}
    lines = gain_lines(results)
    assert len(lines) == len(TASKS)
    assert lines[0] == "normals mean ° against the real-only control: -20.0 %"
    assert gain_lines({"warm_up": scores_of(TASKS), "real_only_control": None}) == []


def test_a_summary_of_runs_with_long_names_cuts_no_number():
    results = dict.fromkeys(RESULT_ROWS, scores_of(["normals"], 12.5))
    names = ["runs/seeds/0", "s3://a-bucket/with/a/long/prefix/runs/of/last/week/seeds/1"]
    text = printed(summary_table(names, [results] * 2, task="normals", metric="mean_deg"))
    assert "…" not in text
    assert "real_only_control" in text
    assert text.count("12.50") == 3 * 3
