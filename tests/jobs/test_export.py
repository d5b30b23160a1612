"""The job that exports a run as a folder that loads back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from transformers import ViTModel

from deployment import load_run
from jobs.export import main
from perception.build import open_backbone
from perception.vit import vit_config
from runs.results import write_results
from schemas.errors import ConfigError
from storage.files.stores import open_store
from storage.records.weights import list_versions, read_weights
from tests.kit.learned_creator import publish_creator
from tests.kit.models.single_file import write_single_file
from tests.kit.small_model import gradient_image, make_run
from tests.kit.small_run import publish
from tests.kit.tiny_models import tiny_backbone, tiny_diffusion_folder

pytestmark = pytest.mark.slow

IMAGE = gradient_image(21, 34)
RESULTS = {
    "warm_up": {"normals": {"mean_deg": 26.04}, "depth": {"rmse_m": 0.5}, "semseg": {"miou": 0.2}},
    "self_improved": {"normals": {"mean_deg": 24.16}, "depth": {"rmse_m": 0.4}},
    "counts": {"units": 3},
}


@pytest.fixture
def run(tmp_path):
    config = make_run(tmp_path)
    write_results(open_store(config.run.url), RESULTS)
    return config


def test_an_exported_folder_predicts_what_the_run_predicts(run, tmp_path, capsys):
    out = tmp_path / "exported"
    main(["--run", run.run.url, "--out", str(out)])
    # Nothing but the backbone is needed any more: neither the run nor its source.
    wanted = load_run(run.run.url).predict(IMAGE)
    shutil.rmtree(run.run.url)
    shutil.rmtree(tmp_path / "source")
    loaded = load_run(out)
    found = loaded.predict(IMAGE)
    for task in wanted:
        np.testing.assert_array_equal(found[task], wanted[task])
    assert loaded.weights.version == 1
    assert "version 1 of" in capsys.readouterr().out
    assert loaded.sample("a bed")[0].image.shape == (32, 32, 3)


def test_a_folder_on_an_object_store_loads_with_a_backbone_from_disk(run):
    out = "memory://exported-run"
    main(["--run", run.run.url, "--out", out, "--with-backbone"])
    with pytest.raises(ConfigError, match="models are read from a disk alone"):
        load_run(out)
    assert load_run(out, diffusion=str(tiny_diffusion_folder())).weights.version == 1


def test_a_chosen_version_is_exported_alone(run, tmp_path):
    main(["--run", run.run.url, "--out", str(tmp_path / "exported"), "--weights", "0"])
    assert load_run(tmp_path / "exported").weights.version == 0
    assert [path.name for path in (tmp_path / "exported" / "weights").iterdir()] == ["v00000000"]


def test_one_file_of_all_weights_is_exported_with_its_configurations(tmp_path):
    source = shutil.copytree(tiny_diffusion_folder(), tmp_path / "models")
    path = write_single_file(source, tmp_path / "dream.safetensors")
    model = {"diffusion": str(path), "diffusion_config": str(source), "captioner": "none"}
    config = make_run(tmp_path, model=model, versions=0)
    publish(config, 0, backbone=open_backbone(config))
    out = tmp_path / "exported"
    main(["--run", config.run.url, "--out", str(out), "--with-backbone"])
    wanted = load_run(config.run.url).predict(IMAGE)
    shutil.rmtree(source)
    path.unlink()
    found = load_run(out.rename(tmp_path / "carried away")).predict(IMAGE)
    np.testing.assert_array_equal(found["depth"], wanted["depth"])


def test_with_its_backbone_the_folder_stands_alone(tmp_path):
    moved = tmp_path / "models"
    shutil.copytree(tiny_diffusion_folder(), moved)
    config = make_run(tmp_path, model={"diffusion": str(moved), "captioner": "none"})
    out = tmp_path / "exported"
    main(["--run", config.run.url, "--out", str(out), "--with-backbone"])
    shutil.rmtree(moved)
    out = out.rename(tmp_path / "carried away")
    loaded = load_run(out)
    assert loaded.predictor.backbone.model_id == tiny_backbone().model_id
    assert loaded.predict(IMAGE)["depth"].shape == (21, 34)


def test_the_encoder_of_the_method_goes_with_the_backbone(tmp_path):
    encoder = tmp_path / "vit"
    ViTModel(vit_config(0.01, 8), add_pooling_layer=False).save_pretrained(encoder)
    method = {"name": "invpt", "tasks": ["depth"], "encoder": str(encoder)}
    config = make_run(tmp_path, versions=1, method=method)
    out = tmp_path / "exported"
    main(["--run", config.run.url, "--out", str(out), "--with-backbone"])
    wanted = load_run(config.run.url).predict(IMAGE)
    shutil.rmtree(encoder)
    np.testing.assert_array_equal(load_run(out).predict(IMAGE)["depth"], wanted["depth"])


def test_an_exported_folder_can_be_exported_again(run, tmp_path):
    main(["--run", run.run.url, "--out", str(tmp_path / "one")])
    main(["--run", str(tmp_path / "one"), "--out", str(tmp_path / "two"), "--with-backbone"])
    first, second = (load_run(tmp_path / name).predict(IMAGE) for name in ("one", "two"))
    np.testing.assert_array_equal(first["depth"], second["depth"])


def test_the_newest_weights_of_a_creator_go_along(run, tmp_path):
    main(["--run", run.run.url, "--out", str(tmp_path / "without")])
    assert "creator" not in (tmp_path / "without" / "export.json").read_text()
    newest = [publish_creator(run, version) for version in range(2)][1]
    # An exported folder is exported again as a run is.
    for source, name in ((run.run.url, "one"), (str(tmp_path / "one"), "two")):
        main(["--run", source, "--out", str(tmp_path / name)])
        exported = open_store(str(tmp_path / name))
        assert list_versions(exported, series="creator") == [1]
        assert read_weights(exported, 1, series="creator")[0] == newest
        described = json.loads(exported.read_bytes("export.json"))
        assert (described["creator_version"], described["creator_sha256"]) == (1, newest.sha256)
        assert (
            f"what made its images, sha256 `{newest.sha256}`"
            in (tmp_path / name / "README.md").read_text()
        )


def test_a_run_whose_creator_is_damaged_is_not_exported(run, tmp_path):
    publish_creator(run, 0)
    open_store(run.run.url).write_bytes("creator/v00000000/manifest.json", b"{}")
    with pytest.raises(ConfigError, match="not a weights manifest"):
        main(["--run", run.run.url, "--out", str(tmp_path / "exported")])
    assert not (tmp_path / "exported" / "export.json").exists()


def test_the_configuration_goes_over_as_it_is(tmp_path):
    config = make_run(tmp_path, versions=1, model={"device": "auto"})
    main(["--run", config.run.url, "--out", str(tmp_path / "exported")])
    texts = [
        (folder / "config.resolved.yaml").read_text()
        for folder in (tmp_path / "run", tmp_path / "exported")
    ]
    assert texts[0] == texts[1]


def test_the_card_says_what_it_is_how_good_and_how_to_load_it(run, tmp_path):
    main(["--run", run.run.url, "--out", str(tmp_path / "exported")])
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "normals, depth, semseg from one image" in card
    assert "| self-improved | 24.16 |" in card
    assert "ids 0 to 20" in card
    assert "8 labelled images of the source `rooms` and synthetic ones" in card
    assert "from deployment import load_run" in card
    assert tiny_backbone().model_id in card
    assert json.loads((tmp_path / "exported" / "results.json").read_text()) == RESULTS


def test_a_run_that_was_not_scored_has_a_card_that_says_so(tmp_path):
    config = make_run(tmp_path, versions=1)
    main(["--run", config.run.url, "--out", str(tmp_path / "exported")])
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "Not scored" in card
    assert "synthetic ones" not in card, "these are weights of the warm-up"


def test_another_backbone_in_its_place_is_noticed(run, tmp_path):
    out = tmp_path / "exported"
    main(["--run", run.run.url, "--out", str(out), "--with-backbone"])
    config = out / "backbone" / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ConfigError, match="its digest is"):
        load_run(out)


def test_a_changed_weights_file_is_noticed(run, tmp_path):
    out = tmp_path / "exported"
    main(["--run", run.run.url, "--out", str(out)])
    weights = out / "weights" / "v00000001" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ConfigError, match="no file with sha256"):
        load_run(out)


def test_a_damaged_description_is_an_error(run, tmp_path):
    out = tmp_path / "exported"
    main(["--run", run.run.url, "--out", str(out)])
    for text in ("{", "[]", '{"format": 1}'):
        (out / "export.json").write_text(text)
        with pytest.raises(ConfigError, match=r"not what jobs/export\.py writes"):
            load_run(out)


def test_a_folder_of_something_else_is_not_written_to(run, tmp_path):
    with pytest.raises(ConfigError, match="wanted a new or empty folder"):
        main(["--run", run.run.url, "--out", run.run.url])
