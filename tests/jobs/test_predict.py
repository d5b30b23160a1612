"""The job that predicts for photographs."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from deployment import load_run
from deployment.files import draw_overview
from deployment.options import parse_size
from deployment.predictor import Prediction
from jobs.predict import main
from runs.pictures import reliability_as_grey
from schemas.errors import ConfigError, RunFailedError
from storage.samples.codecs import decode_label, decode_reliability
from tests.kit.small_model import TASKS, gradient_image, make_run

SIZES = {"wide": (37, 121), "tall": (90, 41), "same": (32, 32)}


@pytest.fixture(scope="module")
def run_url(tmp_path_factory) -> str:
    return make_run(tmp_path_factory.mktemp("predict")).run.url


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    (folder / "sub").mkdir(parents=True)
    for name, size in SIZES.items():
        Image.fromarray(gradient_image(*size)).save(folder / f"{name}.png")
    Image.fromarray(gradient_image(20, 30)).convert("CMYK").save(folder / "sub" / "print.jpg")
    return folder


@pytest.mark.slow
def test_every_image_gets_maps_at_its_own_size(run_url, photographs, tmp_path):
    out = tmp_path / "out"
    main(["--run", run_url, str(photographs), "--out", str(out), "--npy"])
    for name, size in {**SIZES, "sub/print": (20, 30)}.items():
        for task in TASKS:
            data = (out / f"{name}.{task}.png").read_bytes()
            label = decode_label(data, task)
            exact = np.load(out / f"{name}.{task}.npy", allow_pickle=False)
            assert label.shape[:2] == exact.shape[:2] == size
            tolerance = {"normals": 0.02, "depth": 0.001, "semseg": 0}[task]
            np.testing.assert_allclose(label, exact, atol=tolerance)
            sure = decode_reliability(
                (out / f"{name}.{task}_confidence.png").read_bytes(), task=task
            )
            exact = np.load(out / f"{name}.{task}_confidence.npy", allow_pickle=False)
            np.testing.assert_allclose(sure, exact, atol=0.51 if task == "normals" else 0.002)
        with Image.open(out / f"{name}.overview.png") as picture:
            assert min(picture.size) >= 100
    index = json.loads((out / "predictions.json").read_text())
    assert index["creation_version"] == 1
    assert {entry["name"] for entry in index["images"]} == {*SIZES, "sub/print"}


@pytest.mark.slow
def test_the_job_gives_what_the_library_gives(run_url, photographs, tmp_path):
    main(["--run", run_url, str(photographs), "--out", str(tmp_path / "out"), "--npy"])
    found = load_run(run_url).predict(photographs / "wide.png")
    exact = np.load(tmp_path / "out" / "wide.depth.npy", allow_pickle=False)
    np.testing.assert_allclose(found["depth"], exact, rtol=1e-5)


def test_options_choose_tasks_weights_and_fit(run_url, photographs, tmp_path):
    out = tmp_path / "out"
    options = ["--tasks", "depth", "--weights", "0", "--keep-aspect", "--average-mirrored"]
    main(["--run", run_url, str(photographs / "wide.png"), "--out", str(out), *options])
    written = sorted(path.name for path in out.iterdir())
    assert written == [
        "predictions.json",
        "wide.depth.png",
        "wide.depth_confidence.png",
        "wide.overview.png",
    ]
    assert json.loads((out / "predictions.json").read_text())["creation_version"] == 0


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(
    run_url, photographs, tmp_path, capsys
):
    whole = io.BytesIO()
    Image.fromarray(gradient_image(64, 64)).save(whole, format="JPEG")
    (photographs / "cut.jpg").write_bytes(whole.getvalue()[:400])
    out = tmp_path / "out"
    with pytest.raises(RunFailedError, match="1 of 5 images could not be read"):
        main(["--run", run_url, str(photographs), "--out", str(out)])
    assert "left out" in capsys.readouterr().out
    assert (out / "wide.depth.png").is_file()
    index = json.loads((out / "predictions.json").read_text())
    broken = [entry for entry in index["images"] if "error" in entry]
    assert [entry["name"] for entry in broken] == ["cut"]
    assert "decode_failed" in broken[0]["error"]


def test_many_large_images_are_held_a_few_at_a_time(run_url, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("deployment.files.MAX_HELD_BYTES", 1)
    out = tmp_path / "out"
    main(["--run", run_url, str(photographs), "--out", str(out), "--tasks", "depth"])
    assert len(list(out.rglob("*.overview.png"))) == 4


@pytest.mark.slow
def test_the_same_command_may_be_given_again(run_url, photographs, tmp_path):
    command = ["--run", run_url, str(photographs / "same.png"), "--out", str(tmp_path / "out")]
    main(command)
    first = (tmp_path / "out" / "same.depth.png").read_bytes()
    main(command)
    assert (tmp_path / "out" / "same.depth.png").read_bytes() == first


def test_results_of_an_earlier_call_are_not_mixed_with_new_ones(run_url, photographs, tmp_path):
    out = tmp_path / "out"
    command = ["--run", run_url, "--out", str(out), "--tasks", "depth"]
    main([*command, str(photographs / "same.png")])
    for other in (["--npy", str(photographs / "wide.png")], [str(photographs / "sub")]):
        with pytest.raises(ConfigError, match=r"holds 3 files of an earlier call .*same\.depth"):
            main([*command, *other])
    (photographs / "same.png").write_bytes(b"no image any more")
    with pytest.raises(RunFailedError):
        main([*command, str(photographs / "same.png")])
    assert [path.name for path in out.iterdir()] == ["predictions.json"]


def test_results_below_the_photographs_are_not_predicted_again(run_url, photographs):
    command = ["--run", run_url, "--tasks", "depth", str(photographs), "--out"]
    main([*command, str(photographs / "one")])
    main([*command, str(photographs / "one")])
    main([*command, str(photographs / "two")])
    names = [path.relative_to(photographs) for path in photographs.rglob("*.overview.png")]
    assert len(names) == 2 * 4


def test_a_name_too_long_for_the_results_is_one_image_left_out(
    run_url, photographs, tmp_path, capsys
):
    (photographs / "tall.png").rename(photographs / f"{'a' * 240}.png")
    out = tmp_path / "out"
    with pytest.raises(RunFailedError, match="1 of 4 images"):
        main(["--run", run_url, str(photographs), "--out", str(out), "--tasks", "depth"])
    said = capsys.readouterr().out.replace("\n", "")
    assert "its results cannot be written: File name too long; rename the image" in said
    assert len(list(out.rglob("*.overview.png"))) == 3
    assert not list(out.glob("aaa*")), "nothing of it stays"


def test_what_is_not_used_is_said(run_url, photographs, tmp_path, capsys):
    for name in ("._same.png", ".DS_Store", "camera.DNG"):
        (photographs / name).touch()
    arguments = ["--tasks", "depth", str(photographs), "--out", str(tmp_path / "out")]
    main(["--run", run_url, *arguments])
    assert "3 files not used: 2 hidden, 1 .DNG" in capsys.readouterr().out


def test_a_folder_of_something_else_is_not_written_to(run_url, photographs):
    with pytest.raises(ConfigError, match=r"wanted a new or empty folder, .* found .*png"):
        main(["--run", run_url, str(photographs), "--out", str(photographs)])
    with pytest.raises(ConfigError, match="found a file"):
        main(["--run", run_url, str(photographs), "--out", str(photographs / "wide.png")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "colour"], "colour is no task"),
        (["--tasks", "saliency"], "the run predicts normals, depth, semseg"),
        (["--weights", "9"], "--weights 9: wanted final or"),
        (["--image-size", "large"], "wanted HEIGHTxWIDTH"),
        (["--device", "cuda:99"], "model.device = cuda:99: this machine has .*--device cpu"),
        (["--device", "gpu"], "model.device = gpu: no device"),
    ],
)
def test_wrong_options_are_errors_that_name_them(
    run_url, photographs, tmp_path, arguments, message
):
    with pytest.raises(ConfigError, match=message):
        main(["--run", run_url, str(photographs), "--out", str(tmp_path / "out"), *arguments])


def test_a_size_is_height_times_width():
    assert parse_size("480x640") == (480, 640)
    assert parse_size(None) is None
    for wrong in ("480", "0x64", "64x", "-1x2"):
        with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
            parse_size(wrong)


def test_an_overview_shows_the_image_and_every_map_and_confidence():
    size = (200, 300)
    found = Prediction(
        {"depth": np.full(size, 2.0, np.float32), "semseg": np.zeros(size, np.uint8)},
        {"depth": np.ones(size, np.float32), "semseg": np.zeros(size, np.float32)},
    )
    picture = np.asarray(draw_overview(gradient_image(*size), found))
    legend = 22 + 8
    assert picture.shape == (8 + 2 * (200 + 22 + 8) + legend, 8 + 3 * (300 + 8), 3)
    np.testing.assert_array_equal(picture[30:230, 8:308], gradient_image(*size))
    assert (picture[260:460, 316:616] == 255).all(), "all sure is white"
    assert (picture[260:460, 624:924] == 0).all(), "not sure at all is black"


def test_confidence_of_normals_is_brighter_where_the_error_is_smaller():
    grey = reliability_as_grey(np.array([[0.0, 30.0, 90.0, np.nan]], np.float32), "normals")
    assert grey[0, :, 0].tolist() == [255, 128, 0, 0]


@pytest.mark.parametrize(
    ("size", "words"),
    [("65x63", "--image-size 65x63.*divisible by"), ("99999x99999", "at most 4194304 pixels")],
)
def test_a_size_that_the_models_cannot_read_is_refused_before_they_are_loaded(
    run_url, photographs, tmp_path, monkeypatch, size, words
):
    monkeypatch.setattr("deployment.loaded_run.open_backbone", None)
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match=words):
        main(["--run", run_url, str(photographs), "--out", out, "--image-size", size])


def test_results_are_not_begun_below_a_file(photographs, tmp_path):
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "x" / "y")
    with pytest.raises(ConfigError, match=r"wanted a folder, found a file at .*file; name another"):
        main(["--run", "nowhere", str(photographs), "--out", out])
