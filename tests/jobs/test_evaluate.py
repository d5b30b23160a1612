"""The job that scores a run's weights."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from jobs.evaluate import main
from perception.build import make_method
from perception.state_file import state_to_bytes
from runs.directory import claim_run_directory, read_config
from runs.scoring import score_run, score_weights, select_states
from schemas.config import RunConfig
from schemas.errors import ConfigError
from storage.files.stores import RunStore, open_store
from tests.kit.small_run import make_config, publish
from tests.kit.tiny_models import tiny_backbone, tiny_diffusion_folder
from trainers.final import final_dir


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return make_config(tmp_path, run={"url": str(tmp_path / "run")})


@pytest.fixture
def store(config) -> RunStore:
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    return store


def end_stage(store: RunStore, config: RunConfig, stage: str, *, seed: int) -> None:
    """Leave what a stage leaves at its end, with weights of their own."""
    for name, offset in (("creation", 0.0), ("exploitation", 0.5)):
        method = make_method(config, tiny_backbone())
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(0.02 * (seed + offset))
        store.write_bytes(f"{final_dir(stage)}/{name}.safetensors", state_to_bytes(method))
    store.write_bytes(f"{final_dir(stage)}/final.json", json.dumps({"stage": stage}).encode())


@pytest.mark.slow
def test_a_run_is_scored_stage_by_stage(config, store):
    end_stage(store, config, "warm_up", seed=1)
    assert set(score_run(config, store, split="train")) == {"warm_up"}
    end_stage(store, config, "self_improve", seed=2)
    scores = score_run(config, store, split="train")
    assert list(scores) == ["warm_up", "self_improved"]
    means = {row: scores[row]["normals"]["mean_deg"] for row in scores}
    assert means["warm_up"] != means["self_improved"]


@pytest.mark.slow
def test_all_means_every_published_version_and_both_kinds_of_final_weights(config, store):
    end_stage(store, config, "warm_up", seed=1)
    publish(config, 0)
    publish(config, 1)
    assert set(select_states(store, "all")) == {"warm_up", "warm_up θ_E", "v0", "v1"}
    assert set(select_states(store, "1")) == {"v1"}


@pytest.mark.parametrize("which", ["final", "7", "newest"])
def test_weights_that_are_not_there_are_an_error_that_lists_the_versions(config, store, which):
    publish(config, 0)
    with pytest.raises(ConfigError, match=rf"--weights {which}: .* found versions \[0\]"):
        select_states(store, which)


def test_a_directory_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.resolved\.yaml"):
        read_config(open_store(str(tmp_path)))


def test_values_of_the_runs_configuration_can_be_changed(store):
    assert read_config(store, ["evaluation.batch_size=3"]).evaluation.batch_size == 3
    with pytest.raises(ConfigError, match="batch_sise"):
        read_config(store, ["evaluation.batch_sise=3"])


def test_a_changed_method_is_an_error_that_says_so(config, store):
    end_stage(store, config, "warm_up", seed=1)
    changed = ["--set", "method.tasks=[depth]", "--split", "train"]
    with pytest.raises(ConfigError, match="the method and model it was trained with"):
        main(["--run", config.run.url, *changed])


def test_weights_of_another_backbone_are_not_scored(config, store):
    publish(config, 0)
    other = config.model.model_copy(update={"diffusion": str(tiny_diffusion_folder("epsilon"))})
    changed = config.model_copy(update={"model": other})
    with pytest.raises(ConfigError, match=r"model\.diffusion = .* were trained on"):
        score_weights(changed, store, select_states(store, "0"), split="train")


def test_the_job_draws_truth_beside_predictions(config, store, tmp_path):
    end_stage(store, config, "warm_up", seed=1)
    file = tmp_path / "truth.png"
    main(["--run", config.run.url, "--split", "train", "--picture", str(file)])
    with Image.open(file) as picture:
        # Image, truth and prediction; eight rows with a line each.
        assert picture.size[0] == 8 + 3 * (192 + 8)
        assert picture.size[1] > 8 * 192


def test_the_job_prints_json_alone_for_programs(config, store, capsys):
    end_stage(store, config, "warm_up", seed=1)
    main(["--run", config.run.url, "--split", "train", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["run"], found["split"]) == (store.url, "train")
    assert found["scores"]["warm_up"]["normals"]["mean_deg"] > 0


def test_the_job_prints_a_table_and_writes_json(config, store, tmp_path, capsys):
    end_stage(store, config, "warm_up", seed=1)
    out = tmp_path / "scores.json"
    main(["--run", config.run.url, "--split", "train", "--baseline", "--out", str(out)])
    scores = json.loads(out.read_text())
    assert set(scores) == {"warm_up", "constant"}
    assert scores["constant"]["normals"]["mean_deg"] == pytest.approx(0, abs=0.5)
    shown = capsys.readouterr().out
    assert "warm_up" in shown
    assert f"{scores['warm_up']['normals']['mean_deg']:.2f}" in shown
