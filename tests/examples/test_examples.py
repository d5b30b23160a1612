"""Every example runs as its first line says."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.generate import main as generate
from schemas.config_file import dump_config
from storage.samples.codecs import encode_normals_png
from tests.kit.small_model import gradient_image, make_run

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_url(tmp_path) -> str:
    return make_run(tmp_path, versions=1).run.url


@pytest.fixture
def example(monkeypatch, capsys):
    """Run an example with arguments and return what it printed."""

    def run(name: str, *arguments: object) -> str:
        path = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run


def test_predict_one_image(example, run_url, tmp_path):
    Image.fromarray(gradient_image(37, 121)).save(tmp_path / "photograph.jpg")
    shown = example("predict_one_image", run_url, tmp_path / "photograph.jpg")
    assert "normals: float32 (37, 121, 3)" in shown
    assert "semseg: uint8 (37, 121)" in shown


def test_sample_from_prompt(example, run_url, tmp_path):
    shown = example("sample_from_prompt", run_url, "a bed", tmp_path / "pairs")
    assert shown.count("normals, depth, semseg") == 4
    assert len(list((tmp_path / "pairs").glob("*.image.png"))) == 4


@pytest.mark.slow
def test_read_manifest_with_duckdb(example, tmp_path, monkeypatch):
    config = make_run(tmp_path, versions=1, method={"tasks": ["normals"]})
    (tmp_path / "run.yaml").write_text(dump_config(config))
    generate(["--config", str(tmp_path / "run.yaml"), "--local"])
    shown = example("read_manifest_with_duckdb", config.run.url)
    assert "creation_version status  samples" in shown
    assert "0     ok        8" in shown
    assert "(32, 32, 3), labels ['normals']" in shown


@pytest.mark.slow
def test_train_on_your_folder(example, tmp_path):
    """The tasks are those of the description, whichever they are."""
    normals = np.zeros((64, 64, 3), np.float32)
    normals[..., 2] = 1
    for i in range(4):
        Image.fromarray(gradient_image(64, 64)).save(tmp_path / f"{i:04d}.jpg")
        (tmp_path / f"{i:04d}_normals.png").write_bytes(encode_normals_png(normals))
        Image.fromarray(np.full((64, 64), i % 3, np.uint8)).save(tmp_path / f"{i:04d}_ids.png")
    (tmp_path / "mine.yaml").write_text(
        "root: .\nimage: '{key}.jpg'\nlabels:\n  normals: {pattern: '{key}_normals.png'}\n"
        "  semseg: {pattern: '{key}_ids.png', num_classes: 3}\n"
        "splits: {train: {all: true}}\nsize: [64, 64]\n"
    )
    shown = example("train_on_your_folder", tmp_path / "mine.yaml", tmp_path / "run", 2)
    assert "2 steps" in shown
    assert "predicts ('normals', 'semseg')" in shown


def test_every_example_is_short_and_run_here():
    tests = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"def test_{path.stem}(" in tests, path
        assert len(path.read_text().splitlines()) < 45, path
