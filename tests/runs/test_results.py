"""The tables at the end of a run."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from evaluation.measures import MEASURES, Measure
from evaluation.scores import HEADLINE_METRICS, ScoreBoard, make_metrics
from runs.results import (
    COLUMNS,
    classes_table,
    gain_lines,
    scores_table,
    spread,
    spread_of_changes,
)
from runs.scoring import class_scores
from schemas.sample import TASKS
from schemas.stages import RESULT_ROWS
from tests.kit.small_run import make_config

WIDTH = 80


def printed(table):
    console = Console(file=io.StringIO(), width=WIDTH)
    console.print(table)
    return console.file.getvalue()


def scores_of(tasks, value=0.25):
    return {task: dict.fromkeys(COLUMNS[task], value) for task in tasks}


def test_every_task_has_columns_and_its_headline_metric_is_the_first():
    assert {task: columns[0] for task, columns in COLUMNS.items()} == {
        task: HEADLINE_METRICS[task].name for task in TASKS
    }
    for columns in COLUMNS.values():
        headers = [MEASURES[key].header for key in columns]
        assert len(set(headers)) == len(headers)


def test_every_metric_has_a_name_a_unit_and_a_direction():
    for task in TASKS:
        for key in make_metrics(task, num_classes=3).compute():
            # The threshold at which odsF is reached is no score.
            assert key in MEASURES or key == "ods_threshold"
        headline = HEADLINE_METRICS[task]
        assert MEASURES[headline.name].lower_is_better == headline.lower_is_better


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
        assert all(MEASURES[key].header in text for key in COLUMNS[task])


def test_the_gain_is_that_of_every_tasks_headline_metric():
    results = {"real_only_control": scores_of(TASKS, 0.5), "self_improved": scores_of(TASKS, 0.4)}
    lines = gain_lines(results)
    assert len(lines) == len(TASKS)
    assert lines[0] == (
        "normals mean: 0.40° against 0.50° of the real-only control: -0.10° (20.0 % better)"
    )
    assert lines[1].endswith("-0.100 m (20.0 % better)")
    assert lines[2] == (
        "semseg mIoU: 40.0% against 50.0% of the real-only control: -10.0 points (20.0 % worse)"
    )
    assert gain_lines({"warm_up": scores_of(TASKS), "real_only_control": None}) == []


def test_a_small_gain_is_not_rounded_away():
    results = {
        "real_only_control": scores_of(["semseg"], 0.5),
        "self_improved": scores_of(["semseg"], 0.50012),
    }
    (line,) = gain_lines(results)
    assert line.endswith("+0.012 points (0.024 % better)")
    assert spread_of_changes([0.012, 0.014]) == "+0.013 ± 0.001"


def test_a_control_without_an_error_has_no_relative_gain():
    results = {
        "real_only_control": scores_of(["depth"], 0.0),
        "self_improved": scores_of(["depth"], 0.25),
    }
    assert gain_lines(results) == [
        "depth RMSE: 0.250 m against 0.000 m of the real-only control: +0.250 m"
    ]


def test_every_class_is_scored_under_its_name_and_shown_where_it_occurs(tmp_path):
    config = make_config(tmp_path, method={"tasks": ["semseg"], "num_classes": 21})
    board = ScoreBoard(("semseg",), num_classes=21)
    labels = torch.tensor([[[1, 1, 2, 4]]])
    board.update({"semseg": torch.tensor([[[1, 2, 2, 2]]])}, {"semseg": labels})
    found = class_scores(config, {"self_improved": board})
    semseg = found["self_improved"]["semseg"]
    assert (semseg["1 wall"], semseg["4 bed"], semseg["0 void"]) == (0.5, 0.0, None)
    json.dumps(found, allow_nan=False)
    text = printed(classes_table(found, title="test split"))
    assert "semseg classes, test split" in text
    assert ["1", "wall", "50.0%"] in [line.split() for line in text.splitlines()]
    assert "void" not in text
    assert not printed(classes_table({"warm_up": {}}, title="x")).strip()


def test_a_spread_has_the_unit_of_its_mean():
    share = Measure(name="mIoU", unit="%", decimals=1, lower_is_better=False, factor=100)
    assert spread([0.5, 0.52], share) == "51.0% ± 1.4"
    assert spread([0.5], share) == "50.0%"
    assert spread([24.0, 25.0], MEASURES["mean_deg"]) == "24.50 ± 0.71"
