"""Ablations of several tasks, and rows that only score the weights of another row."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from experiments.ablation import Ablation, load_ablation
from experiments.plan import expect_tasks, part_key, plan_ablation
from experiments.run import make_run, make_scores, make_warm_up
from experiments.size import size_of
from experiments.table import gains_pct, table_lines
from jobs import ablate
from runs.results import read_results
from schemas.config_base import values_of
from schemas.config_file import dump_config
from schemas.config_method import SCORING_FIELDS, DiffusionMtlSection, TaskDiffusionSection
from schemas.errors import ConfigError, RunFailedError
from storage.files.stores import open_store
from tests.kit.models.multi_task import all_labels, image_pyramid, make_small_method_on_vit
from tests.kit.rooms_source import rooms_section, write_rooms
from tests.kit.small_run import make_config, make_sample

TASKS = ("normals", "depth")
STEPS = "method.taskdiffusion.steps"
ROWS = [
    {"name": "S = 1", "scored_with": "S = 2", "set": {STEPS: 1}},
    {"name": "S = 2"},
    {
        "name": "z = 0",
        "scored_with": "S = 2",
        "set": {"method.taskdiffusion.reads_code": False, STEPS: 3},
    },
    *({"name": f"single {task}", "set": {"method.tasks": [task]}} for task in TASKS),
]
BASELINE = {task: f"single {task}" for task in TASKS}


def make_room(key: str, *, seed: int):
    sample = make_sample(key, seed=seed)
    depth = np.random.default_rng(seed).uniform(1.0, 4.0, sample.image.shape[:2])
    return replace(sample, labels={**sample.labels, "depth": depth.astype(np.float32)})


@pytest.fixture
def write_ablation(tmp_path):
    """Write an ablation of two tasks, warm-ups alone, and return its path."""
    rooms = [make_room(f"room-{i:02d}", seed=i) for i in range(8)]
    folder = write_rooms(tmp_path / "rooms", {"train-0": rooms[:5], "test-0": rooms[5:]})
    config = make_config(
        tmp_path,
        source=rooms_section(folder, train=5, test=3),
        method={
            "name": "taskdiffusion",
            "tasks": TASKS,
            "reads_diffusion": False,
            # A greater scale than the published one, so that a few steps show what is read.
            "taskdiffusion": {"width": 8, "steps": 2, "scale": 1.0},
        },
        training={"warm_up": {"steps": 2, "batch_size": 4}},
    )
    base = tmp_path / "base.yaml"
    base.write_text(dump_config(config))

    def write(rows=ROWS, **changes):
        tree = {"name": "two", "title": "Two tasks", "base": str(base), "seeds": [0]}
        tree |= {"tasks": list(TASKS), "baseline": BASELINE}
        rows = [{"result": "warm_up"} | row if "scored_with" not in row else row for row in rows]
        file = tmp_path / "ablation.yaml"
        file.write_text(yaml.safe_dump({**tree, "rows": rows, **changes}, allow_unicode=True))
        return file

    return write


def test_a_scored_row_is_the_run_of_its_row_with_other_options(write_ablation) -> None:
    runs = {run.row: run for run in plan_ablation(load_ablation(write_ablation()), "memory://a")}
    trained, once, without = runs["S = 2"], runs["S = 1"], runs["z = 0"]
    assert trained.scored_as is None
    assert trained.results_file == "results.json"
    for run in (once, without):
        assert run.config == trained.config
        assert run.warm_up == trained.warm_up
        assert run.result == trained.result == "warm_up"
        assert run.scored_as.run.url == trained.config.run.url
        assert part_key(run.config, "run") in run.config.run.url
    before, after = (
        {path: value for path, _, value in values_of(config)}
        for config in (once.config, once.scored_as)
    )
    assert {path: after[path] for path in after if after[path] != before[path]} == {STEPS: 1}
    assert len({run.results_file for run in (trained, once, without)}) == 3


def test_equal_scores_of_two_tables_are_stored_once(write_ablation) -> None:
    ablation = load_ablation(write_ablation())
    other = ablation.model_copy(update={"name": "other", "rows": ablation.rows[:2]})
    ours, theirs = (plan_ablation(each, "memory://a")[0] for each in (ablation, other))
    assert (ours.row, ours.results_file) == (theirs.row, theirs.results_file)


@pytest.mark.parametrize(
    "name",
    [
        "method.taskdiffusion.scale",
        "method.taskdiffusion",
        "method.tasks",
        "training.warm_up.steps",
        "run.seed",
        "source.num_labelled",
        "evaluation.metrics",
    ],
)
def test_a_field_that_decides_what_is_trained_cannot_be_scored_with(write_ablation, name) -> None:
    row = {"name": "other", "scored_with": "S = 2", "set": {STEPS: 1, name: 2}}
    with pytest.raises(ConfigError, match=rf"other: scored_with = S = 2, set: \['{name}'\] decide"):
        load_ablation(write_ablation([*ROWS, row]))


SCORED_WITH = [
    ("taskdiffusion", "steps", 5),
    ("taskdiffusion", "lead", 0),
    ("taskdiffusion", "samples", 2),
    ("taskdiffusion", "reads_code", False),
    ("taskdiffusion", "raise_every_step", True),
    ("taskdiffusion", "saliency_threshold", 0.2),
    ("diffusionmtl", "predicts", "initial"),
]


def test_every_field_of_a_method_that_is_only_scored_has_a_test() -> None:
    tested = {f"method.{method}.{field}" for method, field, _ in SCORED_WITH}
    assert tested == {f for f in SCORING_FIELDS if f.startswith("method")}


@pytest.mark.parametrize(("name", "field", "value"), SCORED_WITH)
def test_what_may_be_scored_with_changes_neither_weights_nor_loss(name, field, value) -> None:
    tasks = ("saliency", "depth")
    small = {"taskdiffusion": {"width": 8}, "diffusionmtl": {"token_reduction": 1}}[name]
    sections = {"taskdiffusion": TaskDiffusionSection, "diffusionmtl": DiffusionMtlSection}
    plain, other = (
        make_small_method_on_vit(
            name, tasks, reads_diffusion=False, **{name: sections[name](**small, **options)}
        ).eval()
        for options in ({}, {field: value})
    )
    ours, theirs = plain.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    labels = {task: label for task, label in all_labels(2).items() if task in tasks}
    losses = [
        method(image_pyramid(2), labels, None, torch.Generator().manual_seed(0))[0]
        for method in (plain, other)
    ]
    assert losses[0] == losses[1]


def make_found(values):
    """Row to seed to the headline metrics of both tasks, None where a row lacks one."""
    found = {}
    for row, by_seed in values.items():
        for seed, (deg, rmse_m) in by_seed.items():
            scores = {"normals": {"mean_deg": deg}, "depth": {"rmse_m": rmse_m}}
            kept = {task: each for task, each in scores.items() if None not in each.values()}
            found[row, seed] = {"warm_up": kept}
    return found


def make_ablation(**changes) -> Ablation:
    names = ("joint", "other", "single normals", "single depth")
    rows = [{"name": name, "result": "warm_up"} for name in names]
    tree = {"name": "t", "title": "t", "base": "b", "seeds": (0, 1), "tasks": TASKS, "rows": rows}
    return Ablation(**tree | {"baseline": BASELINE} | changes)


FOUND = make_found(
    {
        "joint": {0: (18.0, 0.6), 1: (22.0, 0.3)},
        "other": {0: (20.0, 0.5)},
        "single normals": {0: (20.0, None), 1: (20.0, None)},
        "single depth": {0: (None, 0.5), 1: (None, 0.5)},
    }
)


def test_delta_m_is_the_mean_relative_gain_over_the_single_task_rows_of_the_same_seed() -> None:
    ablation = make_ablation()
    joint, other, normals, _ = ablation.rows
    # Seed 0: ten per cent better and twenty worse; seed 1: ten worse and forty better.
    assert gains_pct(ablation, joint, FOUND) == pytest.approx([(10 - 20) / 2, (-10 + 40) / 2])
    assert gains_pct(ablation, other, FOUND) == pytest.approx([0.0])
    assert gains_pct(ablation, normals, FOUND) == [], "it lacks a task"


def test_the_table_shows_each_task_by_its_headline_metric_and_leaves_out_what_is_missing() -> None:
    head, _, joint, _, normals, depth = table_lines(make_ablation(), FOUND)
    assert head == "| row | seeds | normals mean ° | depth RMSE m | Δm |"
    assert joint == "| joint | 2 | 20.00 ± 2.83 | 0.450 ± 0.212 | +5.0 ± 14.1 % |"
    assert normals == "| single normals | 2 | 20.00 ± 0.00 |  |  |"
    assert depth == "| single depth | 2 |  | 0.500 ± 0.000 |  |"


def test_without_a_baseline_several_tasks_are_compared_with_the_first_row() -> None:
    ablation = make_ablation(baseline={})
    head, _, joint, other, *_ = table_lines(ablation, FOUND)
    assert head.endswith("| against joint |")
    assert joint.endswith("|  |")
    assert other.endswith(f"| {50 * (-2 / 18 + 0.1 / 0.6):+.1f} % |")


def test_a_row_can_name_the_row_that_it_is_compared_with() -> None:
    rows = [row.model_dump() for row in make_ablation().rows]
    rows[1]["against"] = "joint"
    ablation = make_ablation(rows=rows)
    other = table_lines(ablation, FOUND)[3]
    assert other.endswith(f"| {50 * (-2 / 18 + 0.1 / 0.6):+.1f} % over joint |")


def test_a_baseline_that_scores_zero_gives_no_gain_and_stops_nothing() -> None:
    zero = make_found({"joint": {0: (18.0, 0.6)}})
    zero |= make_found({"single normals": {0: (0.0, None)}, "single depth": {0: (None, 0.5)}})
    assert "nan" in table_lines(make_ablation(), zero)[2]


def test_parameters_and_multiply_adds_are_columns_where_they_were_counted() -> None:
    size = {"parameters": 1_860_000, "multiply_adds": 123_400_000}
    found = {**FOUND, ("other", 0): {**FOUND["other", 0], "size": size}}
    head, _, joint, other, *_ = table_lines(make_ablation(), found)
    assert head.endswith("| parameters, M | multiply-adds, M |")
    assert other.endswith("| 1.86 | 123 |")
    assert joint.endswith("|  |  |")


def test_one_task_is_short_for_a_list_of_one() -> None:
    rows = [{"name": "one"}]
    assert make_ablation(rows=rows, baseline={}, tasks=["depth"]) == Ablation(
        name="t", title="t", base="b", seeds=(0, 1), task="depth", rows=rows
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "depth"}, "task, tasks: found both"),
        ({"tasks": ["depth", "depth"]}, "depth is given twice"),
        ({"baseline": {"depth": "single depth"}}, r"wanted a row for each of \['normals', 'depth'"),
        ({"baseline": {**BASELINE, "depth": "S = 9"}}, r"baseline: wanted rows among .*'S = 9'"),
        ({"rows": [*ROWS, {"name": "r", "scored_with": "S = 9"}]}, "wanted a row that trains"),
        ({"rows": [*ROWS, {"name": "r", "scored_with": "S = 1"}]}, "wanted a row that trains"),
        ({"rows": [*ROWS, {"name": "r", "donor": "S = 1"}]}, "wanted donors among"),
        ({"rows": [*ROWS, {"name": "r", "against": "S = 9"}]}, "wanted against to name one of"),
        (
            {"rows": [*ROWS, {"name": "r", "scored_with": "S = 2", "result": "self_improved"}]},
            r"\['result'\] are those of that row",
        ),
    ],
)
def test_mistakes_are_named(write_ablation, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_ablation(write_ablation(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"baseline": {"normals": "single depth", "depth": "single normals"}},
            r"baseline.depth = 'single normals': that row has method.tasks = \['normals'\]",
        ),
        ({"tasks": ["depth"], "baseline": {}}, r"row 'single normals': method.tasks = \['normals"),
    ],
)
def test_a_row_that_does_not_predict_what_the_table_shows_is_named(
    write_ablation, changes, message
) -> None:
    ablation = load_ablation(write_ablation(**changes))
    with pytest.raises(ConfigError, match=message):
        expect_tasks(ablation, plan_ablation(ablation, "memory://a"))


def test_weights_that_are_not_there_yet_are_not_scored(write_ablation, tmp_path) -> None:
    (run,) = plan_ablation(load_ablation(write_ablation()), str(tmp_path / "runs"), rows=["S = 1"])
    with pytest.raises(RunFailedError, match="has not ended"):
        make_scores(run)


@pytest.mark.slow
def test_more_steps_cost_more_and_learn_no_more(write_ablation) -> None:
    runs = {run.row: run for run in plan_ablation(load_ablation(write_ablation()), "memory://a")}
    one, two = size_of(runs["S = 1"].scored_as), size_of(runs["S = 2"].config)
    assert one["parameters"] == two["parameters"] > 0
    assert 0 < one["multiply_adds"] < two["multiply_adds"]


@pytest.mark.slow
def test_a_table_of_two_tasks_scores_one_run_several_times_and_resumes(
    write_ablation, tmp_path, capsys
) -> None:
    root = tmp_path / "runs"
    arguments = ["--config", str(write_ablation()), "--root", str(root), "--processes", "1"]
    # Asked for a row that is only scored, the run that it scores is made.
    ablate.main([*arguments, "--rows", "S = 1"])
    (results,) = root.glob("warm_up/*/results.json")
    first = {path: path.stat().st_mtime_ns for path in results.parent.rglob("*") if path.is_file()}
    ablate.main(arguments)
    assert "Δm" in capsys.readouterr().out
    rows = {row["row"]: row for row in json.loads((root / "two/table.json").read_text())}
    assert list(rows) == [row["name"] for row in ROWS]
    assert rows["S = 1"]["run"] == rows["S = 2"]["run"] == rows["z = 0"]["run"]
    one, two, zero = (rows[name]["warm_up"] for name in ("S = 1", "S = 2", "z = 0"))
    assert one.keys() == two.keys() == set(TASKS)
    assert one != two != zero
    assert rows["single depth"]["warm_up"].keys() == {"depth"}
    lines = (root / "two/table.md").read_text().splitlines()
    assert lines[0].endswith("| depth RMSE m | Δm | parameters, M | multiply-adds, M |")
    assert [line.split("|")[5].strip() != "" for line in lines[2:]] == [True] * 3 + [False] * 2
    assert all(path.stat().st_mtime_ns == at for path, at in first.items()), "nothing is made again"
    after = {path: path.stat().st_mtime_ns for path in root.glob("warm_up/**/*") if path.is_file()}
    ablate.main(arguments)
    assert all(path.stat().st_mtime_ns == at for path, at in after.items())


@pytest.mark.slow
def test_a_row_scored_with_the_options_that_it_was_trained_with_has_the_same_scores(
    write_ablation, tmp_path
) -> None:
    same = {"name": "same", "scored_with": "S = 2", "set": {STEPS: 2}}
    ablation = load_ablation(write_ablation([ROWS[1], same], baseline={}))
    trained, scored = plan_ablation(ablation, str(tmp_path / "runs"))
    make_warm_up(trained.warm_up)
    results = make_run(trained)
    scores = make_scores(scored)
    assert scores["warm_up"] == results["warm_up"]
    assert scores["size"] == results["size"]
    store = open_store(trained.config.run.url)
    assert len(store.find("scores")) == 1
    assert make_scores(scored) == scores
    assert read_results(store) == results
