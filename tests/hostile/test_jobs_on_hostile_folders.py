"""jobs/predict.py and jobs/prepare.py on folders of strangers: an outcome for each file."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs import predict, prepare
from runs.command_line import run_job
from tests.kit.hostile import pictures
from tests.kit.hostile.mutations import mutated
from tests.kit.hostile.outcomes import CANARY, PICKLE, bounded
from tests.kit.hostile.pictures import save, two_halves
from tests.kit.layouts import nyu_files
from tests.kit.small_model import make_run

pytestmark = pytest.mark.slow

GOOD = save(two_halves())


@pytest.fixture
def run_here(monkeypatch, capsys, tmp_path):
    """Run a job in this process; its exit code, what it printed, and what it said of errors."""
    canary = tmp_path / "canary"
    monkeypatch.setenv(CANARY, str(canary))

    def run(main: Callable[..., object], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["job.py", *map(str, arguments)])
        code = 0
        try:
            run_job(main)
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    yield run
    assert not canary.exists(), "something unpickled what it read"


PHOTOGRAPHS: dict[str, tuple[bytes, str]] = {
    "good.png": (GOOD, ""),
    "empty.png": (b"", "decode_failed"),
    "cut.png": (GOOD[:-30], "decode_failed"),
    "bomb.png": (pictures.bomb(10**6, 10**5), "too_large"),
    "inflates.png": (
        pictures.with_chunk(
            GOOD, pictures.chunk(b"zTXt", b"a\0\0" + pictures.zeros_deflated(1 << 26))
        ),
        "",
    ),
    "cmyk.jpg": (save(two_halves().convert("CMYK"), "JPEG"), ""),
    "palette.png": (save(two_halves().quantize(4)), ""),
    "sixteen.png": (pictures.rgb16(), ""),
    "turned.jpg": (pictures.turned(6), ""),
    "one_pixel.png": (save(Image.new("RGB", (1, 1))), ""),
    "thin.png": (save(Image.new("RGB", (700, 1))), ""),
    "jpeg_named.png": (save(two_halves(), "JPEG"), ""),
    "gif.png": (save(two_halves(), "GIF"), ""),
    "text.jpg": (b"<html>", "decode_failed"),
    "pickle.png": (PICKLE, "decode_failed"),
    "[bold red]markup[?nothing].png": (b"", "decode_failed"),
    "[bold][red].png": (GOOD, ""),
    "a\nb.png": (b"", "decode_failed"),
    "\x1b[2Jclears.png": (b"", "decode_failed"),
    "部屋 é.png": (GOOD, ""),
    "--out.png": (GOOD, ""),
    "UPPER.PNG": (GOOD, ""),
    "no suffix": (PICKLE, "never read"),
    "weights.pt": (PICKLE, "never read"),
}


@pytest.fixture(scope="module")
def run_url(tmp_path_factory) -> str:
    return make_run(tmp_path_factory.mktemp("hostile")).run.url


def test_every_photograph_of_a_stranger_is_predicted_or_named_with_a_reason(
    run_url, tmp_path, run_here
):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, (data, _) in PHOTOGRAPHS.items():
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("gone.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "below").symlink_to("..")
    out = tmp_path / "out"
    code, printed, said = run_here(
        predict.main, "--run", run_url, folder, "--tasks", "depth", "--out", out
    )
    wanted = {name: why for name, (_, why) in PHOTOGRAPHS.items() if why != "never read"}
    failed = [why for why in wanted.values() if why]
    assert code == 1
    assert f"{len(failed)} of {len(wanted)} images could not be read" in said
    entries = {
        Path(entry["file"]).name: entry.get("error", "")
        for entry in json.loads((out / "predictions.json").read_text())["images"]
    }
    assert entries.keys() == wanted.keys()
    for name, why in wanted.items():
        assert entries[name].startswith(why), entries[name]
        assert bool(why) == bool(entries[name]), name
    assert "\x1b[2J" not in printed


def test_a_name_that_is_no_text_is_predicted_or_refused(run_url, tmp_path, run_here):
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(GOOD)
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"")
    code, _, said = run_here(
        predict.main, "--run", run_url, folder, "--tasks", "depth", "--out", tmp_path / "out"
    )
    assert code == 2
    assert "wanted a name in UTF-8" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("gone.png",), 2, "no such file or folder"),
        (("a\0b.png",), 2, "cannot hold the sign"),
        (("/dev/zero",), 2, "found a device"),
        (("k" * 5000,), 2, "name is longer than"),
        ((".", "--weights", "../../x"), 2, "wanted images|wanted final"),
        ((".", "--tasks", "sky"), 2, "sky|wanted images"),
    ],
)
def test_hostile_arguments_of_predict_are_one_message(
    run_url, tmp_path, run_here, monkeypatch, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    found, _, said = run_here(predict.main, "--run", run_url, "--out", tmp_path / "o", *arguments)
    assert (found, bool(re.search(message, said))) == (code, True), said


def _image(root: Path, data: bytes) -> None:
    path = sorted(root.rglob("rgb_*.jpg"))[0]
    path.write_bytes(data)


def _depth(root: Path, data: bytes) -> None:
    path = sorted(root.rglob("sync_depth_*.png"))[0]
    path.write_bytes(data)


def _link_out(root: Path) -> None:
    path = sorted(root.rglob("rgb_*.jpg"))[0]
    (root.parent / "secret.jpg").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(root.parent / "secret.jpg")


def _pipe(root: Path) -> None:
    path = sorted(root.rglob("sync_depth_*.png"))[0]
    path.unlink()
    os.mkfifo(path)


def _many_names(root: Path) -> None:
    folder = sorted(root.rglob("rgb_*.jpg"))[0].parent
    for name in ("rgb_.jpg", "rgb_²³.jpg", "rgb_-1.jpg", "rgb_99999999999999999999.jpg", "[x].jpg"):
        (folder / name).write_bytes(b"")


DATA_SETS: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "plain": (lambda _: None, 0, "train"),
    "an image of no bytes": (lambda root: _image(root, b""), 0, "decode_failed"),
    "an image that is a pickle": (lambda root: _image(root, PICKLE), 0, "decode_failed"),
    "an image that says it is huge": (
        lambda root: _image(root, pictures.bomb(10**6, 10**5)),
        0,
        "too_large",
    ),
    "a depth map cut off": (lambda root: _depth(root, GOOD[:60]), 0, "decode_failed"),
    "a depth map in colours": (lambda root: _depth(root, GOOD), 0, "label_format"),
    "an image that links out": (_link_out, 0, "outside_root"),
    "a depth map that is a pipe": (_pipe, 0, "found a named pipe"),
    "odd names": (_many_names, 0, "train"),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_published_data_set_with_a_hostile_file_is_converted_without_it(name, tmp_path, run_here):
    edit, code, message = DATA_SETS[name]
    root = tmp_path / "in"
    nyu_files.write_bts(root)
    edit(root)
    with bounded():
        found, printed, said = run_here(
            prepare.main, "nyu_bts", "--root", root, "--out", tmp_path / "out", "--workers", 1
        )
    assert found == code, said
    assert re.search(message, printed), printed


FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def labeled_mat(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mat")
    nyu_files.write_mat(root, train=2, test=1)
    return root


@pytest.mark.parametrize("file", ["nyu_depth_v2_labeled.mat", "splits.mat"])
def test_a_changed_or_cut_matlab_file_is_read_or_named(file, labeled_mat, tmp_path, run_here):
    whole = (labeled_mat / file).read_bytes()
    other = next(path for path in labeled_mat.iterdir() if path.name != file)
    root = tmp_path / "in"
    root.mkdir()
    (root / other.name).write_bytes(other.read_bytes())
    turn = [0]

    @FEW
    @given(mutated(whole) | st.integers(0, len(whole)).map(lambda size: whole[:size]))
    def read(data: bytes) -> None:
        turn[0] += 1
        (root / file).write_bytes(data)
        with bounded():
            code, _, said = run_here(
                prepare.main,
                "nyu_depth_v2",
                "--root",
                root,
                "--out",
                tmp_path / f"out{turn[0]}",
                "--workers",
                1,
            )
        assert code in {0, 2}, said
        assert code == 0 or str(root) in said, said

    read()
