"""What the jobs say to input that is wrong: which field, which value, what to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from PIL import Image

from runs.command_line import run_job
from schemas.config_file import load_config
from schemas.errors import ConfigError
from tests.kit.job_process import ROOT, arguments_of
from tests.kit.run_reader import manifest_rows, members_by_key

ROOMS = str(ROOT / "configs/rooms_demo.yaml")
SIZE_PX = 32
BROKEN = "0002"


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Runs the main job as its command line does; gives what it says, having checked the code."""
    from jobs.self_improve import main

    monkeypatch.chdir(ROOT)

    def run(config: str | Path, *changes: str, dry_run: bool = True) -> str:
        arguments = arguments_of(str(config), tmp_path / "run", *changes)
        options = ["--dry-run"] if dry_run else []
        monkeypatch.setattr(sys, "argv", ["self_improve.py", *arguments, *options])
        with pytest.raises(SystemExit) as ended:
            run_job(main)
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert said.startswith("error: ")
        return said

    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six photographs with normals, described by ``mine.yaml`` beside them."""
    root = tmp_path / "mine"
    for part in ("rgb", "normal"):
        (root / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(6):
        colours = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        write_png(root / f"rgb/{number:04d}.png", np.kron(colours, np.ones((8, 8, 1), np.uint8)))
        up = np.broadcast_to(np.uint8([128, 255, 128]), (SIZE_PX, SIZE_PX, 3))
        write_png(root / f"normal/{number:04d}.png", up)
    description = {
        "name": "mine",
        "root": ".",
        "image": "rgb/{key}.png",
        "labels": {"normals": {"pattern": "normal/{key}.png"}},
        "splits": {"train": {"all": True}},
        "size": [SIZE_PX, SIZE_PX],
    }
    (root / "mine.yaml").write_text(yaml.safe_dump(description))
    return root


def write_png(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def config_of(folder: Path, **model: str) -> Path:
    """A configuration on the folder, written beside it."""
    stage = {"steps": 2, "batch_size": 4}
    tree = {
        "run": {"url": "set by each test"},
        "model": {"captioner": "none", **model},
        "source": {"kind": "folder", "description": str(folder / "mine.yaml")},
        "creator": {"num_steps": 2},
        "plan": {"rounds": 1, "unit_size": 3},
        "screening": {"max_expected_error_deg": 180, "min_pixel_std": 0},
        "training": {"warm_up": stage, "self_improve": stage},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_an_unknown_key_is_named_with_the_nearest_known_one(refused):
    said = refused(ROOMS, "creator.t_strat=500")
    assert "creator.t_strat = 500: unknown key; did you mean t_start?" in said


def test_a_noise_level_out_of_range_is_named_with_its_limit_and_meaning(refused):
    said = refused(ROOMS, "creator.t_start=1001")
    assert "creator.t_start = 1001" in said
    assert "less than or equal to 1000" in said
    assert "Timestep T" in said


def test_more_steps_than_noise_levels_are_refused_with_a_remedy(refused):
    said = refused(ROOMS, "creator.t_start=20")
    assert "num_steps = 25 is more than t_start = 20; lower num_steps or raise t_start" in said


def test_a_source_folder_that_is_missing_is_named_with_the_remedy(refused, tmp_path):
    said = refused(ROOMS, f"source.root={tmp_path}/nowhere")
    assert f"source.root = {tmp_path}/nowhere" in said
    assert "point source.root at" in said


def test_more_rooms_than_there_are_is_answered_with_how_many_there_are(refused):
    said = refused(ROOMS, "source.num_labelled=100000")
    assert "source.num_labelled = 100000" in said
    assert "set source.num_labelled to at most" in said


def test_waiting_for_more_images_than_are_made_is_refused(refused):
    said = refused(ROOMS, "source.num_labelled=8", "plan.variants=2")
    assert "training.min_synthetic_samples = 48: the plan makes 16 images" in said
    assert "set it to at most 16" in said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.diffusion", "starter/gone"),
        ("model.diffusion", "/nowhere/at/all"),
        ("model.captioner_path", "starter/gone"),
    ],
)
def test_a_model_folder_that_is_missing_is_named_with_the_remedy(refused, field, value):
    said = refused(ROOMS, f"{field}={value}")
    assert f"{field} = {value}: no folder" in said
    assert "starter/" in said


def test_a_model_on_the_hub_is_not_taken_for_a_missing_folder(monkeypatch, capsys, tmp_path):
    from jobs.self_improve import main

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    change = "model.diffusion=stable-diffusion-v1-5/stable-diffusion-v1-5"
    arguments = [*arguments_of(ROOMS, tmp_path / "run", change), "--dry-run"]
    main(arguments)
    assert "images to make" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"model\.diffusion = .*HF_HUB_OFFLINE is set"):
        main(arguments)


def test_a_label_of_another_size_than_its_image_is_named_with_both_sizes(refused, folder):
    write_png(folder / "normal/0003.png", np.full((16, SIZE_PX, 3), 128, np.uint8))
    said = refused(config_of(folder))
    assert "labels.normals" in said
    assert "normal/0003.png is 32 x 16" in said
    assert "rgb/0003.png is 32 x 32" in said
    assert "export both alike" in said


def test_a_photograph_folder_that_is_missing_is_named(refused, folder):
    config = config_of(folder)
    shutil.rmtree(folder / "rgb")
    said = refused(config)
    assert "splits.train" in said
    assert "correct the list, range or image pattern" in said


def test_a_task_without_labels_is_refused(refused, folder):
    said = refused(config_of(folder), "method.tasks=[normals, depth]")
    assert "labels.depth: missing, but method.tasks asks for depth" in said


def test_a_run_directory_of_another_configuration_is_refused_with_the_difference(refused, tmp_path):
    from runs.directory import claim_run_directory
    from storage.files.stores import open_store

    run = tmp_path / "run"
    other = load_config(ROOMS, (f"run.url={run}", "creator.t_start=500"))
    store = open_store(str(run))
    claim_run_directory(store, other)
    store.write_bytes("captions/train-000000.parquet", b"made for the other configuration")
    said = refused(ROOMS, dry_run=False)
    assert f"run.url = '{run}': holds a run of another configuration" in said
    assert "creator.t_start: there 500, now 600" in said
    assert "choose another run.url" in said


def test_a_file_that_is_not_yaml_is_refused_with_the_line(refused, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("run: {url: runs/a\ntraining: ]\n")
    said = refused(path)
    assert "not YAML" in said
    assert "line 2" in said


def test_a_configuration_that_is_missing_is_named(refused, tmp_path):
    said = refused(tmp_path / "gone.yaml")
    assert "gone.yaml: no such file; the shipped ones are in configs/" in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_job_itself_ends_with_code_two_and_one_message(tmp_path):
    arguments = arguments_of(ROOMS, tmp_path / "run", "training.real_fraction=0")
    done = subprocess.run(
        [sys.executable, "jobs/self_improve.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "training.real_fraction = 0: wanted greater than 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_image_that_does_not_decode_is_a_row_with_a_reason_and_the_run_goes_on(
    folder, tmp_path, capsys
):
    from jobs import generate, status, train
    from tests.kit.tiny_models import tiny_diffusion_folder

    (folder / f"rgb/{BROKEN}.png").write_bytes(b"not an image")
    run = tmp_path / "run"
    config = config_of(folder, diffusion=str(tiny_diffusion_folder()))
    arguments = [*arguments_of(str(config), run), "--local"]
    train.main([*arguments, "--stage", "warm_up"])
    generate.main(arguments)
    train.main([*arguments, "--stage", "self_improve"])

    rows = {row["source_key"]: row for row in manifest_rows(run)}
    assert sorted(rows) == [f"{number:04d}" for number in range(6)]
    failed = rows.pop(BROKEN)
    assert (failed["status"], failed["error_class"]) == ("failed", "decode_failed")
    assert failed["error_msg"]
    assert failed["source_uri"].endswith(f"rgb/{BROKEN}.png")
    assert (failed["tar_uri"], failed["tar_size"]) == ("", -1)
    assert {row["status"] for row in rows.values()} == {"ok"}
    stored = {key for row in rows.values() for key in members_by_key(run / row["tar_uri"])}
    assert stored == {row["key"] for row in rows.values()}
    capsys.readouterr()
    status.main([str(run)])
    assert "decode_failed" in capsys.readouterr().out
