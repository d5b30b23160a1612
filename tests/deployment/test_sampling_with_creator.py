"""Sampling after a run whose creator has learnt: its newest weights make the images."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from deployment import load_run
from jobs.export import main as export
from schemas.errors import ConfigError
from tests.kit.learned_creator import publish_denoiser
from tests.kit.small_model import gradient_image, make_run

pytestmark = pytest.mark.slow

PHOTOGRAPH = gradient_image(20, 30)


def make_run_that_learns(tmp_path, name: str = "run"):
    training = {"creator": {"steps": 3, "lora_rank": 2}}
    return make_run(tmp_path, versions=1, training=training, name=name)


def images_of(run) -> np.ndarray:
    made = [*run.sample("a bed", count=2), *run.vary(PHOTOGRAPH, prompt="a sofa")]
    return np.stack([each.image for each in made])


def test_before_its_first_step_it_samples_what_a_run_without_it_samples(tmp_path):
    plain = make_run(tmp_path, versions=1, name="plain")
    config = make_run_that_learns(tmp_path)
    publish_denoiser(config, 0)
    frozen, learnt = load_run(plain.run.url), load_run(config.run.url)
    assert np.array_equal(images_of(learnt), images_of(frozen))
    assert "creator_version" not in frozen.sample("a bed")[0].meta


def test_its_newest_version_makes_the_images_and_is_named(tmp_path):
    config = make_run_that_learns(tmp_path)
    publish_denoiser(config, 0)
    before = images_of(load_run(config.run.url))
    newest = publish_denoiser(config, 1, shift=0.1)
    run = load_run(config.run.url)
    assert not np.array_equal(images_of(run), before)
    for made in (run.sample("a bed")[0], run.vary(PHOTOGRAPH, prompt="a sofa")[0]):
        assert made.meta["creator_version"] == 1
        assert made.meta["creator_hash"] == newest.sha256


def test_without_its_weights_a_run_predicts_and_says_how_to_get_them(tmp_path):
    run = load_run(make_run_that_learns(tmp_path).run.url)
    assert run.predict(PHOTOGRAPH)["normals"].shape == (20, 30, 3)
    with pytest.raises(ConfigError, match="--stage creator"):
        run.sample("a bed")


def test_an_exported_folder_samples_what_the_run_samples(tmp_path):
    config = make_run_that_learns(tmp_path)
    publish_denoiser(config, 0, shift=0.1)
    wanted = images_of(load_run(config.run.url))
    out = tmp_path / "exported"
    export(["--run", config.run.url, "--out", str(out)])
    shutil.rmtree(config.run.url)
    assert np.array_equal(images_of(load_run(out)), wanted)


def test_a_run_that_makes_pairs_samples_by_the_frozen_backbone(tmp_path):
    plain = make_run(tmp_path, versions=1, name="plain")
    pairs = make_run(
        tmp_path,
        versions=1,
        creator={"kind": "mtdiffusion"},
        training={"creator": {"steps": 1}},
        name="pairs",
    )
    frozen, learnt = load_run(plain.run.url), load_run(pairs.run.url)
    assert np.array_equal(images_of(learnt), images_of(frozen))
    assert "creator_version" not in learnt.sample("a bed")[0].meta
