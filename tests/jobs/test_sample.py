"""The job that makes labelled images on demand."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from jobs.sample import main
from schemas.errors import ConfigError
from storage.samples.codecs import decode_sample
from tests.kit.small_model import TASKS, gradient_image, make_run


@pytest.fixture(scope="module")
def run_url(tmp_path_factory) -> str:
    return make_run(tmp_path_factory.mktemp("sample")).run.url


@pytest.fixture
def photograph(tmp_path):
    Image.fromarray(gradient_image(50, 70)).save(tmp_path / "photograph.jpg")
    return tmp_path / "photograph.jpg"


def read_pairs(out):
    index = json.loads((out / "samples.json").read_text())
    pairs = []
    for entry in index["samples"]:
        paths = out.glob(f"{entry['key']}.*")
        members = {path.name.split(".", 1)[1]: path.read_bytes() for path in paths}
        pairs.append((entry, decode_sample(entry["key"], members)))
    return pairs


@pytest.mark.slow
def test_a_prompt_gives_pairs_that_read_like_those_of_a_shard(run_url, tmp_path, capsys):
    out = tmp_path / "out"
    main(["--run", run_url, "--prompt", "a bed", "--count", "3", "--seed", "2", "--out", str(out)])
    pairs = read_pairs(out)
    assert len(pairs) == 3
    for entry, sample in pairs:
        assert sample.image.shape == (32, 32, 3)
        assert set(sample.labels) == set(sample.reliability) == set(TASKS)
        assert sample.is_synthetic
        assert sample.caption == entry["caption"] == "a bed"
        assert sample.meta["seed"] == entry["seed"]
        assert (entry["creator"], entry["caption_model"]) == ("gaussian", "user")
    assert "contact_sheet.png" in capsys.readouterr().out.replace("\n", "")
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.height > 3 * 192
        assert sheet.width < 5 * 200, "no column for real images, as there are none"


@pytest.mark.slow
def test_an_image_gives_variations_under_its_own_caption(run_url, photograph, tmp_path):
    out = tmp_path / "out"
    main(["--run", run_url, "--from", str(photograph), "--count", "2", "--out", str(out)])
    for entry, sample in read_pairs(out):
        assert entry["creator"] == "halfway"
        assert entry["source_key"] == "photograph.jpg"
        assert entry["caption_model"].startswith("blip2:")
        assert sample.caption


@pytest.mark.slow
def test_options_reach_the_sampler(run_url, photograph, tmp_path):
    out = tmp_path / "out"
    options = ["--prompt", "a sofa", "--t-start", "300", "--steps", "3", "--guidance", "2"]
    main(["--run", run_url, "--from", str(photograph), "--out", str(out), *options])
    entry, sample = read_pairs(out)[0]
    assert sample.caption == "a sofa"
    assert (entry["t_start"], entry["steps"], entry["guidance"]) == (300, 3, 2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "found neither"),
        (["--prompt", "a bed", "--t-start", "600"], "starts from pure noise"),
        (["--from", "missing.jpg"], r"--from missing\.jpg: .*No such file"),
        (["--prompt", "a bed", "--count", "0"], "count = 0"),
        (["--prompt", "a bed", "--guidance", "0"], "guidance_scale"),
    ],
)
def test_wrong_options_are_errors_that_name_them(run_url, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        main(["--run", run_url, "--out", str(tmp_path / "out"), *arguments])


def test_an_image_that_cannot_be_read_is_an_error(run_url, tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(ConfigError, match=r"a\.jpg: decode_failed"):
        main(["--run", run_url, "--from", str(tmp_path / "a.jpg"), "--out", str(tmp_path / "out")])


def test_a_folder_of_earlier_samples_is_not_written_to(run_url, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/samples.json").touch()
    with pytest.raises(ConfigError, match=r"wanted a new or empty folder; found samples\.json"):
        main(["--run", run_url, "--prompt", "a bed", "--out", str(tmp_path / "out")])
