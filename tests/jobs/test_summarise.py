"""Finished runs beside each other."""

from __future__ import annotations

import json

import pytest

from jobs.summarise import main
from runs.results import COLUMNS, write_results
from schemas.config_file import dump_config
from schemas.errors import ConfigError
from schemas.run_layout import CONFIG_FILE
from schemas.sample import TASKS
from schemas.stages import RESULT_ROWS
from storage.files.stores import open_store
from tests.kit.small_run import make_config

WIDTH = 80


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))


@pytest.fixture
def finish(tmp_path):
    """A run that has ended with given values of every metric, by row."""

    def make(name, *values, seed=0, tasks=("depth", "semseg"), **sections):
        run = {"url": str(tmp_path / name), "seed": seed}
        config = make_config(tmp_path, run=run, method={"tasks": list(tasks)}, **sections)
        store = open_store(config.run.url)
        store.write_bytes(CONFIG_FILE, dump_config(config).encode())
        scores = {
            row: {task: dict.fromkeys(COLUMNS[task], value) for task in tasks}
            for row, value in zip(RESULT_ROWS, values, strict=True)
        }
        write_results(store, scores)
        return config.run.url

    return make


def test_all_tasks_are_shown_and_a_gain_is_positive_where_the_score_is_better(finish, capsys):
    one = finish("one", 0.6, 0.5, 0.4, seed=1)
    two = finish("two", 0.6, 0.5, 0.41, seed=2)
    main([one, two])
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert all(len(line) <= WIDTH for line in lines if one not in line and two not in line)
    assert "…" not in shown
    assert shown.count("real_only_control") == 2
    rows = [line.split() for line in lines]
    depth, semseg = shown.split("semseg mIoU, higher is better")
    assert "depth RMSE m, lower is better" in depth
    assert "-0.100" in depth
    assert "+20.0" in depth
    assert "-10.0" in semseg
    assert "-20.0" in semseg
    assert ["mean", "0.600", "0.500", "0.405", "-0.095", "+19.0"] in rows
    assert ["mean", "60.0%", "50.0%", "40.5%", "-9.5", "-19.0"] in rows
    assert ["±", "std", "0.0%", "0.0%", "0.7%", "0.7", "1.4"] in rows


def test_all_six_tasks_fit_into_80_columns(finish, capsys):
    main(
        [
            finish(name, 99.999, 55.55, 50.0, seed=seed, tasks=TASKS)
            for seed, name in enumerate("abc")
        ]
    )
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert shown.count("± std") == len(TASKS)
    assert shown.count("real_only_control") == len(TASKS)


def test_a_small_gain_keeps_its_digits(finish, capsys):
    main([finish("one", 0.5, 0.5, 0.50004)])
    assert "-0.0080" in capsys.readouterr().out


def test_runs_of_different_configurations_have_no_mean_and_the_fields_are_named(finish, capsys):
    one = finish("one", 0.6, 0.5, 0.4)
    two = finish("two", 0.6, 0.5, 0.4, plan={"unit_size": 4})
    main([one, two])
    shown = capsys.readouterr().out
    assert "± std" not in shown
    assert "different configurations" in shown
    assert "plan.unit_size: 2, 4" in shown
    assert "run.seed: " not in shown


def test_two_runs_of_one_seed_are_told(finish, capsys):
    main([finish("one", 0.6, 0.5, 0.4), finish("two", 0.6, 0.5, 0.4)])
    assert "seed 0: more than one run" in capsys.readouterr().out


def test_json_has_values_means_and_what_differs(finish, capsys):
    main([finish("one", 0.6, 0.5, 0.4, seed=1), finish("two", 0.6, 0.5, 0.3, seed=2), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [run["seed"] for run in found["runs"]] == [1, 2]
    assert found["unequal"] == {}
    depth, semseg = found["scores"]
    assert (depth["task"], depth["metric"], depth["lower_is_better"]) == ("depth", "rmse_m", True)
    assert depth["rows"]["self_improved"]["values"] == [0.4, 0.3]
    assert depth["rows"]["self_improved"]["mean"] == pytest.approx(0.35)
    assert depth["gain_pct"]["mean"] == pytest.approx(30)
    assert semseg["gain_pct"]["mean"] == pytest.approx(-30)


def test_another_metric_is_found_by_its_name_alone(finish, capsys):
    main([finish("one", 0.6, 0.5, 0.4), "--metric", "abs_rel"])
    shown = capsys.readouterr().out
    assert "depth AbsRel" in shown
    assert "semseg" not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "normals"], "--task normals: not a task of all these runs"),
        (["--metric", "mean_deg"], "--metric mean_deg: no metric of depth, semseg"),
    ],
)
def test_what_the_runs_do_not_have_is_an_error_that_lists_what_they_have(finish, options, message):
    with pytest.raises(ConfigError, match=message):
        main([finish("one", 0.6, 0.5, 0.4), *options])


def test_a_run_that_is_named_twice_is_an_error(finish):
    url = finish("one", 0.6, 0.5, 0.4)
    with pytest.raises(ConfigError, match="named twice"):
        main([url, url])
