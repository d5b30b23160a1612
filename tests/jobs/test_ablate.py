"""Ablations: what is planned, what is shared, and what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from experiments.ablation import Ablation, load_ablation
from experiments.plan import part_key, plan_ablation
from experiments.run import make_images, make_run, make_warm_up
from experiments.table import gains_pct, table_lines
from jobs import ablate
from runs.results import write_results
from schemas.config_file import dump_config, parse_config
from schemas.config_training import CreatorStageSection
from schemas.errors import ConfigError
from storage.files.stores import open_store
from storage.manifests.table import ManifestReader
from tests.kit.small_run import make_config, write_source

ROWS = [
    {"name": "real only", "result": "real_only_control", "paper": {"mean_deg": 17.2}},
    {"name": "ours"},
    {"name": "T = 300", "set": {"creator.t_start": 300}},
    {"name": "α = 0.9", "set": {"training.ema.decay": 0.9}},
]


@pytest.fixture
def ablation_file(tmp_path):
    config = make_config(
        tmp_path,
        plan={"rounds": 2, "unit_size": 4},
        source={"num_labelled": 4, "num_test": 2},
        training={"publish_every_images": 8, "ema": {"every_samples": 4}},
        method={"tasks": ["normals"]},
    )
    write_test_split(tmp_path)
    base = tmp_path / "base.yaml"
    base.write_text(dump_config(config))
    file = tmp_path / "ablation.yaml"
    tree = {"name": "try", "title": "A try", "base": str(base), "seeds": [0, 1], "rows": ROWS}
    file.write_text(yaml.safe_dump(tree, allow_unicode=True))
    return file


def write_test_split(tmp_path):
    """Give the source two test images: the last two of its training images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = tmp_path / "source"
    if not source.exists():
        write_source(source)
    rows = pq.read_table(source / "manifest.parquet").to_pylist()
    for row in rows[-2:]:
        row["split"] = "test"
    pq.write_table(pa.Table.from_pylist(rows), source / "manifest.parquet")


def test_a_row_that_cannot_be_started_is_named_before_any_run_is(ablation_file, tmp_path):
    tree = yaml.safe_load(ablation_file.read_text())
    tree["rows"][2]["set"] = {
        "method.name": "idisc",
        "method.tasks": ["normals", "semseg"],
    }
    ablation_file.write_text(yaml.safe_dump(tree, allow_unicode=True))
    arguments = ["--config", str(ablation_file), "--root", str(tmp_path / "ablations")]
    for more in (["--dry-run"], []):
        with pytest.raises(ConfigError, match=r"row 'T = 300': .*idisc predicts"):
            ablate.main([*arguments, *more])
    assert not (tmp_path / "ablations").exists()


def test_runs_that_have_ended_are_not_checked_again(ablation_file, tmp_path):
    root = tmp_path / "ablations"
    arguments = ["--config", str(ablation_file), "--root", str(root), "--seeds", "0", "--dry-run"]
    (run,) = plan_ablation(load_ablation(ablation_file), str(root), rows=["ours"], seeds=[0])
    write_results(open_store(run.config.run.url), {"self_improved": {}})
    (tmp_path / "source/manifest.parquet").unlink()
    ablate.main([*arguments, "--rows", "ours"])
    with pytest.raises(ConfigError, match="row 'real only': "):
        ablate.main(arguments)


SHIPPED = sorted(
    path
    for path in (Path(__file__).parents[2] / "configs/ablations").glob("*.yaml")
    if "rows" in yaml.safe_load(path.read_text()) and "rooms" in path.stem
)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_row_of_a_shipped_ablation_on_the_rooms_can_be_started(path, tmp_path, capsys):
    ablate.main(["--config", str(path), "--root", str(tmp_path), "--seeds", "0", "--dry-run"])
    assert "seed 0:" in capsys.readouterr().out


def test_rows_that_differ_after_a_beginning_share_it(ablation_file):
    runs = plan_ablation(load_ablation(ablation_file), "memory://ablations")
    assert [(run.seed, run.row) for run in runs[:5]] == [(0, row["name"]) for row in ROWS] + [
        (1, "real only")
    ]
    first = {run.row: run for run in runs if run.seed == 0}
    assert len({run.warm_up.run.url for run in first.values()}) == 1
    assert first["ours"].images is not None
    assert first["ours"].images.run.url == first["α = 0.9"].images.run.url
    assert first["T = 300"].images is None, "nobody else makes these images"
    assert first["real only"].images is None
    assert len({run.config.run.url for run in runs}) == 8
    assert not {r.warm_up.run.url for r in runs if r.seed} & {first["ours"].warm_up.run.url}


def test_equal_rows_of_two_ablations_are_one_run(ablation_file):
    ablation = load_ablation(ablation_file)
    other = ablation.model_copy(update={"name": "other", "rows": ablation.rows[1:2]})
    ours = {run.row: run.config.run.url for run in plan_ablation(ablation, "memory://a")}
    theirs = {run.row: run.config.run.url for run in plan_ablation(other, "memory://a")}
    assert theirs["ours"] == ours["ours"]


def test_a_key_depends_on_what_decides_the_part_alone(ablation_file):
    runs = {
        run.row: run.config for run in plan_ablation(load_ablation(ablation_file), "a", seeds=[0])
    }
    ours, early, decay = (runs[name] for name in ("ours", "T = 300", "α = 0.9"))
    assert part_key(ours, "warm_up") == part_key(early, "warm_up") == part_key(decay, "warm_up")
    assert part_key(ours, "images") == part_key(decay, "images") != part_key(early, "images")
    assert len({part_key(config, "run") for config in (ours, early, decay)}) == 3
    learning = ours.training.model_copy(update={"creator": CreatorStageSection(steps=1)})
    learnt = ours.model_copy(update={"training": learning})
    assert part_key(learnt, "warm_up") == part_key(ours, "warm_up")
    assert part_key(learnt, "images") != part_key(ours, "images")


@pytest.mark.slow
def test_a_run_adopts_its_beginning_and_ends_with_scores(ablation_file, tmp_path):
    runs = plan_ablation(load_ablation(ablation_file), str(tmp_path / "runs"), seeds=[0])
    by_row = {run.row: run for run in runs}
    ours = by_row["ours"]
    make_warm_up(ours.warm_up)
    make_images(ours.images, ours.warm_up)
    made_once = ManifestReader(open_store(ours.images.run.url)).refresh()
    results = make_run(ours)
    assert results["self_improved"]["normals"]["mean_deg"] > 0
    commits = ManifestReader(open_store(ours.config.run.url)).refresh()
    first = [commit for commit in commits if commit.unit.round == 0]
    assert first == made_once, "the first round was copied, not made again"
    assert {commit.unit.round for commit in commits} == {0, 1}
    assert make_run(ours) == results, "a run that has ended is not run again"
    other = make_run(by_row["α = 0.9"])
    assert other["warm_up"] == results["warm_up"]
    assert other["self_improved"] != results["self_improved"]


@pytest.mark.slow
def test_two_runs_of_one_configuration_end_with_equal_scores(ablation_file, tmp_path):
    scores = []
    for folder in ("first", "second"):
        (run,) = plan_ablation(
            load_ablation(ablation_file), str(tmp_path / folder), rows=["ours"], seeds=[0]
        )
        make_warm_up(run.warm_up)
        scores.append(make_run(run)["self_improved"])
    assert scores[0] == scores[1]


def make_found(values):
    return {
        (row, seed): {result: {"normals": metrics(value)} for result in RESULTS}
        for row, by_seed in values.items()
        for seed, value in by_seed.items()
    }


RESULTS = ("warm_up", "real_only_control", "self_improved")


def metrics(value):
    names = ("median_deg", "rmse_deg", "pct_11_25", "pct_22_5", "pct_30")
    return {"mean_deg": value} | dict.fromkeys(names, 1.0)


def test_the_table_gives_mean_and_spread_and_pairs_seeds_for_the_gain():
    ablation = Ablation(name="t", title="t", base="b", seeds=(0, 1, 2), rows=ROWS[:3])
    found = make_found({"real only": {0: 20.0, 1: 30.0}, "ours": {0: 19.0, 1: 27.0, 2: 5.0}})
    assert gains_pct(ablation, ablation.rows[1], found) == pytest.approx([5.0, 10.0])
    head, _, real, paper, ours = table_lines(ablation, found)
    assert head.split("|")[1:4] == [" row ", " seeds ", " mean ° "]
    assert "25.00 ± 7.07" in real
    assert paper.startswith("| *real only, paper* |  | *17.2* |")
    assert ours.endswith("| +7.5 ± 3.5 % |")
    assert "T = 300" not in "".join(table_lines(ablation, found)), "no run has ended"


@pytest.mark.slow
def test_the_command_makes_table_data_and_plot_and_resumes(ablation_file, tmp_path, capsys):
    root = tmp_path / "runs"
    arguments = ["--config", str(ablation_file), "--root", str(root), "--seeds", "0"]
    (run,) = plan_ablation(load_ablation(ablation_file), str(root), rows=["real only"], seeds=[0])
    make_warm_up(run.warm_up)
    make_run(run)
    ablate.main([*arguments, "--table-only"])
    assert "real only" in capsys.readouterr().out
    (row,) = json.loads((root / "try/table.json").read_text())
    assert row["run"] == run.config.run.url
    assert (root / "try/plot.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "try/table.md").read_text().startswith("| row | seeds |")


@pytest.mark.slow
def test_rows_run_side_by_side_and_a_failed_one_does_not_stop_the_others(ablation_file, tmp_path):
    from schemas.errors import RunFailedError

    arguments = ["--config", str(ablation_file), "--root", str(tmp_path / "runs")]
    arguments += ["--seeds", "0", "--processes", "2", "--rows", "real only", "ours"]
    with pytest.raises(RunFailedError, match=r"ours, seed 0: .*wanted 1 synthetic samples"):
        ablate.main([*arguments, "--set", "screening.min_pixel_std=1000"])
    ablate.main(arguments)
    rows = json.loads((tmp_path / "runs/try/table.json").read_text())
    assert [(row["row"], row["seed"]) for row in rows] == [("real only", 0), ("ours", 0)]


def test_a_row_can_be_shown_as_a_complete_configuration(ablation_file, tmp_path, capsys):
    arguments = ["--config", str(ablation_file), "--root", str(tmp_path / "runs")]
    ablate.main([*arguments, "--rows", "T = 300", "--seeds", "1", "--show"])
    shown = yaml.safe_load(capsys.readouterr().out)
    config = parse_config(shown, origin="shown")
    assert (config.creator.t_start, config.run.seed) == (300, 1)
    assert not (tmp_path / "runs").exists()


def test_mistakes_are_named(ablation_file, tmp_path):
    with pytest.raises(ConfigError, match=r"--rows \['hours'\]: the ablation has"):
        ablate.main(["--config", str(ablation_file), "--rows", "hours"])
    with pytest.raises(ConfigError, match=r"no_such\.yaml"):
        load_ablation(tmp_path / "no_such.yaml")
    tree = yaml.safe_load(ablation_file.read_text())
    ablation_file.write_text(yaml.safe_dump({**tree, "rows": [*tree["rows"], tree["rows"][0]]}))
    with pytest.raises(ConfigError, match="different names"):
        load_ablation(ablation_file)


@pytest.mark.slow
def test_all_shipped_ablations_can_be_planned():
    from pathlib import Path

    files = [f for f in sorted(Path("configs/ablations").glob("*.yaml")) if f.stem != "rooms"]
    assert len(files) >= 8
    for file in files:
        ablation = load_ablation(file)
        assert ablation.name == file.stem
        assert len(plan_ablation(ablation, "runs/a")) == len(ablation.rows) * len(ablation.seeds)
