"""A denoiser that has learnt makes the images: before its first step those of the frozen one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jobs.generate import main as generate
from jobs.train import main as train
from perception.creators import NETWORKS
from perception.diffusion.moments import MomentsCache
from pipeline.make.build import make_learned_creator
from pipeline.make.creators import LEARNED_CREATORS, create_images
from pipeline.make.rows import ImageOrder
from schemas.config import TRAINED_KINDS
from schemas.config_file import dump_config
from schemas.errors import ConfigError
from storage.files.stores import open_store
from storage.records.captions import read_captions
from storage.records.weights import list_versions, read_manifest
from tests.kit.small_run import all_rows, make_config, make_sample, publish
from tests.kit.tiny_models import tiny_backbone

STAGE = {"steps": 3, "batch_size": 4, "learning_rate": 1.0e-2, "ema_decay": 0.5}


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, training={"creator": STAGE})


@pytest.fixture
def command(config, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(config))
    return ["--config", str(file)]


def images_of(create, config) -> np.ndarray:
    orders = [
        ImageOrder(source_shard="s", source=make_sample(key, seed=i), caption="a bed", seed=i)
        for i, key in enumerate(("a", "b"))
    ]
    made = create(tiny_backbone(), orders, settings=config.creator, moments=MomentsCache())
    assert not made.maps
    assert not made.labels
    return made.images


def test_every_kind_that_may_learn_has_its_networks_and_its_creator():
    assert set(TRAINED_KINDS) == NETWORKS.keys() == LEARNED_CREATORS.keys()


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("kind", ["halfway", "gaussian"])
def test_before_its_first_step_it_makes_the_same_images(tmp_path, kind, tuning):
    changes = {"creator": {"kind": kind}, "training": {"creator": STAGE | {"tuning": tuning}}}
    config = make_config(tmp_path, **changes)
    learned = make_learned_creator(config, tiny_backbone())
    before = images_of(create_images, config)
    assert np.array_equal(images_of(learned, config), before)
    with torch.no_grad():
        for parameter in learned.network.parameters():
            parameter.add_(0.1)
    assert not np.array_equal(images_of(learned, config), before)
    assert np.array_equal(images_of(create_images, config), before)


def test_without_the_section_no_creator_learns(tmp_path):
    assert make_learned_creator(make_config(tmp_path), tiny_backbone()) is None


@pytest.mark.slow
def test_without_its_weights_generation_says_how_to_get_them(config, command):
    publish(config, 0)
    with pytest.raises(ConfigError, match="--stage creator"):
        generate([*command, "--local"])


@pytest.mark.slow
def test_what_the_stage_publishes_makes_the_images(config, command, capsys):
    publish(config, 0)
    train([*command, "--stage", "creator", "--local"])
    told = capsys.readouterr().out
    assert "version: 0" in told
    assert len(read_captions(open_store(config.run.url))) == 8, "it learns under captions"
    generate([*command, "--local"])
    store = open_store(config.run.url)
    assert list_versions(store, series="creator") == [0]
    manifest = read_manifest(store, 0, series="creator")
    rows = all_rows(config)
    assert len(rows) == 8
    assert {(r.creation_version, r.creator_version) for r in rows} == {(0, 0)}
    assert {r.creator_hash for r in rows} == {manifest.sha256}


@pytest.mark.slow
def test_a_dry_run_names_the_stage(command, capsys):
    train([*command, "--stage", "creator", "--dry-run"])
    told = capsys.readouterr().out.replace("\n", " ")
    assert "stage creator of" in told
    assert "3 updates at decay 0.5" in told
    assert "one version of the creator" in told


def test_a_run_without_the_section_has_no_such_stage(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(make_config(tmp_path)))
    with pytest.raises(ConfigError, match=r"training\.creator"):
        train(["--config", str(file), "--stage", "creator", "--dry-run"])
