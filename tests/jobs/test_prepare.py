"""The command that converts a data set: what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.prepare import main
from runs.command_line import run_job
from schemas.config_file import load_config
from schemas.config_source import ShardsSource
from sources.layouts.classes import NYU_40
from sources.open import open_source
from tests.kit.layouts import nyu_files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def prepare(monkeypatch, capsys):
    """Run the command in this process; gives its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
        code = 0
        try:
            run_job(main)
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_the_report_has_counts_shares_and_ranges(tmp_path, prepare):
    nyu_files.write_atrc(tmp_path / "in", train=3, test=2)
    code, out, _ = prepare("auto", "--root", tmp_path / "in", "--out", tmp_path / "out")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["train", "3", "0", "0", "12", "x", "16", "(3)"] in lines
    # The builder leaves a corner of 2 x 3 of 12 x 16 pixels without a label.
    share = f"{6 / 192:.1%}"
    normals = next(line for line in lines if line[:2] == ["normals", "train"])
    assert normals[2:4] == ["3", share]
    assert normals[4:6] == ["stored", "length"]
    assert float(normals[6].rstrip(",")) == pytest.approx(1, abs=0.01)
    depth = next(line for line in lines if line[:2] == ["depth", "test"])
    stored = [pair.depth_m for pair in map(nyu_files.make_pair, (3, 4))]
    least = min(one[one > 0].min() for one in stored)
    greatest = max(one.max() for one in stored)
    assert depth[2:7] == ["2", share, f"{least:.3f}", "to", f"{greatest:.3f}"]
    ids = np.concatenate([nyu_files.make_pair(seed).ids.ravel() for seed in range(3)])
    seen = np.unique(ids[ids > 0])
    semseg = next(line for line in lines if line[:2] == ["semseg", "train"])
    assert semseg[4:] == f"ids {seen[0] - 1} to {seen[-1] - 1}, {len(seen)} of them seen".split()


def test_json_holds_the_report_and_nothing_else_is_printed(tmp_path, prepare):
    nyu_files.write_atrc(tmp_path / "in", train=3, test=2)
    folders = ("--root", tmp_path / "in", "--out", tmp_path / "out")
    code, out, said = prepare("auto", *folders, "--json")
    found = json.loads(out)
    assert code == 0
    assert list(found) == [
        *("layout", "root", "out", "tasks", "num_classes", "splits", "remarks", "failures")
    ]
    assert found["layout"] == "nyud_mt_atrc"
    assert found["splits"]["train"] == {"images": 3, "failed": {}}
    assert found["remarks"]
    assert all(isinstance(remark, str) for remark in found["remarks"])
    assert "shards to make" in said


def test_wrong_counts_and_sizes_are_remarked_on(tmp_path, prepare):
    nyu_files.write_atrc(tmp_path / "in", train=3, test=2)
    _, out, _ = prepare("nyud_mt_atrc", "--root", tmp_path / "in", "--out", tmp_path / "out")
    assert "train: 3 images, but the published data set has 795" in out
    assert "test: 2 images, but the published data set has 654" in out
    assert "images of 12 x 16 (height x width), but the published ones are 425 x 560" in out
    assert "the two NYUD-MT archives" in out
    _, out, _ = prepare(
        "nyud_mt_atrc", "--root", tmp_path / "in", "--out", tmp_path / "part", "--limit", 1
    )
    assert "published data set has" not in out


def test_normals_that_point_the_other_way_are_remarked_on_with_the_remedy(tmp_path, prepare):
    nyu_files.write_bae(tmp_path / "in", {"train": 2, "test": 1})
    arguments = ["nyu_bae", "--root", tmp_path / "in"]
    _, out, _ = prepare(*arguments, "--out", tmp_path / "one", "--normals-signs=1,1,-1")
    assert "train: normals: axis z seems to point the other way" in out
    assert "--normals-signs=1,1,1" in out
    _, out, _ = prepare(*arguments, "--out", tmp_path / "two")
    assert "seems to point the other way" not in out


def test_a_failed_sample_is_listed_and_the_command_succeeds(tmp_path, prepare):
    nyu_files.write_atrc(tmp_path / "in")
    (tmp_path / "in" / "images" / "0001.png").write_bytes(b"torn")
    code, out, _ = prepare("auto", "--root", tmp_path / "in", "--out", tmp_path / "out")
    assert code == 0
    assert "train: 1 samples could not be converted (decode_failed)" in out
    assert f"- 0001: {tmp_path / 'in' / 'images' / '0001.png'}: wanted a picture, found" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nyud_mt_tgz"], "give the layout nyud_mt_atrc"),
        (["nothing"], "unknown; wanted one of"),
        (["auto", "--size", "64"], "--size 64: wanted HEIGHTxWIDTH"),
        (["auto", "--tasks", "depth,flow"], "--tasks depth,flow: wanted some of normals"),
        (["auto", "--tasks", "saliency"], "no labels of saliency there"),
        (["auto", "--splits", "validation"], "nyud_mt_atrc has train, test"),
        (["auto", "--normals-signs=1,2,1"], "wanted three of 1 and -1"),
        (["auto", "--workers", "0"], "--workers"),
    ],
)
def test_a_wrong_option_ends_with_code_2_and_the_remedy(tmp_path, prepare, arguments, message):
    nyu_files.write_atrc(tmp_path / "in")
    name, *options = arguments
    code, _, errors = prepare(name, "--root", tmp_path / "in", "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_nothing_readable_ends_with_code_2(tmp_path, prepare):
    nyu_files.write_mat(tmp_path / "in")
    (tmp_path / "in" / "nyu_depth_v2_labeled.mat").write_bytes(b"not HDF5")
    code, _, errors = prepare("auto", "--root", tmp_path / "in", "--out", tmp_path / "out")
    assert code == 2
    assert "nyu_depth_v2_labeled.mat: wanted a MATLAB v7.3 file" in errors


def test_a_dry_run_lists_shards_and_writes_nothing(tmp_path, prepare):
    nyu_files.write_atrc(tmp_path / "in")
    code, out, _ = prepare(
        "auto", "--root", tmp_path / "in", "--out", tmp_path / "out", "--dry-run", "--per-shard", 2
    )
    assert code == 0
    assert out.splitlines()[1:] == [
        "train-000000.tar: 2 samples",
        "train-000001.tar: 1 samples",
        "test-000000.tar: 2 samples",
    ]
    assert not (tmp_path / "out").exists()


def test_what_it_prints_for_use_is_a_source_that_opens(tmp_path, prepare):
    nyu_files.write_atrc(tmp_path / "in")
    _, out, _ = prepare("auto", "--root", tmp_path / "in", "--out", tmp_path / "out")
    tail = out[out.index("to use it:") :].splitlines()[1:]
    assert tail == [
        "source:",
        "  kind: shards",
        f"  root: {tmp_path / 'out'}",
        "method:",
        "  num_classes: 40",
    ]
    source = open_source(ShardsSource(root=str(tmp_path / "out")), ("semseg",), num_classes=40)
    assert source.shards("test")


@pytest.mark.slow
def test_several_processes_make_the_same_bytes_as_one(tmp_path):
    nyu_files.write_mat(tmp_path / "in", train=6, test=2)
    for name, workers in (("one", "1"), ("two", "2")):
        subprocess.run(
            [
                sys.executable,
                "jobs/prepare.py",
                "nyu_depth_v2",
                "--root",
                str(tmp_path / "in"),
                "--out",
                str(tmp_path / name),
                "--workers",
                workers,
                "--per-shard",
                "2",
            ],
            check=True,
            cwd=ROOT,
        )
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 4 + 4 + 3


def test_the_shipped_configuration_of_a_converted_data_set_is_valid():
    config = load_config(ROOT / "configs" / "nyud_mt.yaml")
    assert config.source.kind == "shards"
    assert config.method.num_classes == len(NYU_40)
    assert config.method.tasks == ("semseg", "depth", "normals", "boundaries")
