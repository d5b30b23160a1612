"""Every benchmark runs at a tiny size and prints its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.run_all import OPTIONS, TINY_OPTIONS
from tests.kit.simulated_run import make_config, plan_of
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_captioner_folder, tiny_diffusion_folder
from tests.kit.wholeness import expect_whole

ROOT = Path(__file__).parents[2]
FIGURES = {
    "halfway_batch": "halfway, batched / batch 1",
    "generator": "generator busy share, relabel",
    "train_step": "stage step / bare step",
    "publish_to_swap": "publish to swap / memcpy, 1 MB",
    "ods_f": "boundary score, 654 maps, wall",
}
ON_RAY = {"generator", "publish_to_swap"}


def run(name: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_every_script_has_its_test_here():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert scripts == {*FIGURES, "run_all", "full_size", "scale", "same_outputs"}
    assert FIGURES.keys() == OPTIONS.keys() == TINY_OPTIONS.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.ray if name in ON_RAY else ()) for name in FIGURES],
)
def test_a_benchmark_of_the_whole_list_prints_its_figures(name, tmp_path):
    run("run_all", "--tiny", "--only", name, "--out", str(tmp_path / "out.json"))
    (outcome,) = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    assert outcome["exit_code"] == 0
    values = {figure["name"]: figure["value"] for figure in outcome["figures"]}
    assert values[FIGURES[name]] >= 0


@pytest.mark.slow
def test_every_part_of_the_full_size_path_is_measured():
    folders = ["--diffusion", str(tiny_diffusion_folder())]
    folders += ["--captioner", str(tiny_captioner_folder())]
    printed = run("full_size", *folders, "--side", str(IMAGE_SIZE_PX), "--repeats", "1")
    for part in ("load backbone", "synthesis, 2 steps", "label", "training step", "caption"):
        line = next(line for line in printed.splitlines() if line.startswith(f"{part}:"))
        assert "peak" in line
    assert "matrix product" in printed


@pytest.mark.ray
def test_a_simulated_run_ends_whole_and_a_new_driver_knows_it(tmp_path):
    options = ["--generators", "20", "--processes", "1", "--unit-s", "0.2", "--publish-s", "1"]
    options += ["--units-per-round", "100", "--grace-s", "1", "--folder", str(tmp_path)]
    measured = {}
    for part in ("drive", "recover"):
        printed = run("scale", *options, "--part", part, "--units", "200")
        measured |= json.loads(printed.splitlines()[-1])
    assert measured["state"] == "finished"
    assert measured["driver_ms_per_unit"] > 0
    url = str(tmp_path / "scale-200")
    expect_whole(url, plan_of(make_config(url, rounds=2), 200))
