"""A run that is loaded in one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deployment import load_run
from deployment.sampling import SamplingOptions
from schemas.errors import ConfigError, SourceError
from storage.files.stores import open_store
from tests.kit.small_model import TASKS, gradient_image, make_run
from tests.kit.small_run import make_config
from tests.kit.tiny_models import CAPTION_WORDS, tiny_backbone, tiny_diffusion_folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("loaded"))


@pytest.fixture(scope="module")
def run(config):
    return load_run(config.run.url)


@pytest.mark.slow
def test_three_lines_predict_at_the_images_size(config, tmp_path):
    Image.fromarray(gradient_image(37, 121)).save(tmp_path / "photograph.png")
    run = load_run(config.run.url)
    found = run.predict(tmp_path / "photograph.png")
    assert set(found) == set(found.reliability) == set(TASKS)
    assert found["normals"].shape == (37, 121, 3)
    assert found["semseg"].max() < config.method.num_classes
    assert (run.weights.version, run.image_size, run.tasks) == (1, (32, 32), TASKS)


def test_the_same_file_gives_the_same_prediction_and_another_name_other_noise(run, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(gradient_image(20, 30)).save(tmp_path / name)
    first, again, other = (run.predict(tmp_path / n)["depth"] for n in ("a.png", "a.png", "b.png"))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.slow
def test_a_run_shows_itself_in_one_short_line(config, run):
    text = repr(run)
    assert text.startswith(f"LoadedRun({config.run_id}: bae, normals, depth, semseg; ")
    assert text.endswith(f"weights version {run.weights.version}, learnt at 32x32)")
    assert len(text) < 160


def test_a_version_can_be_chosen(config, run):
    assert load_run(config.run.url, weights=0).weights.version == 0
    image = gradient_image(8, 8)
    older = load_run(config.run.url, weights="0").predict(image)["depth"]
    assert not np.array_equal(run.predict(image)["depth"], older)


def test_values_that_play_no_part_in_training_can_be_changed(tmp_path):
    tiny = {"name": "taskdiffusion", "taskdiffusion": {"width": 16}}
    url = make_run(tmp_path, method=tiny).run.url
    three, one = (load_run(url, overrides=o) for o in ((), ["method.taskdiffusion.steps=1"]))
    assert three.config.method.taskdiffusion.steps == 3
    image = gradient_image(8, 8)
    assert not np.array_equal(three.predict(image)["normals"], one.predict(image)["normals"])


def test_values_that_need_other_weights_are_refused(config):
    with pytest.raises(ConfigError, match=r"--set method\.tasks: decides what is trained"):
        load_run(config.run.url, overrides=["method.tasks=[depth]"])


@pytest.mark.parametrize("which", ["7", 7, "newest", "-1"])
def test_weights_that_are_not_there_are_an_error_that_lists_the_versions(config, which):
    with pytest.raises(ConfigError, match=rf"--weights {which}: wanted final or .* 0, 1"):
        load_run(config.run.url, weights=which)


def test_samples_from_a_prompt_are_labelled_and_say_how_they_were_made(run):
    made = run.sample("a bed", count=3, seed=5)
    assert [each.image.shape for each in made] == [(32, 32, 3)] * 3
    assert set(made[0].labels) == set(made[0].reliability) == set(TASKS)
    assert made[0].is_synthetic
    assert made[0].caption == "a bed"
    facts = made[0].meta
    assert (facts["creator"], facts["t_start"], facts["creation_version"]) == ("gaussian", 1000, 1)
    assert facts["diffusion_base_hash"] == tiny_backbone().model_id
    assert len({each.key for each in made}) == len({each.meta["seed"] for each in made}) == 3


def test_the_same_call_gives_the_same_samples_and_more_of_them_begin_alike(run):
    few, many = run.sample("a bed", count=1, seed=5), run.sample("a bed", count=2, seed=5)
    # Up to the rounding of networks that run on batches of two sizes.
    np.testing.assert_allclose(few[0].image.astype(int), many[0].image, atol=2)
    assert not np.array_equal(many[0].image, many[1].image)
    assert not np.array_equal(few[0].image, run.sample("a bed", seed=6)[0].image)


def test_a_variation_of_an_image_is_made_under_the_captioners_words(run):
    made = run.vary(gradient_image(50, 40), count=2)[0]
    assert set(made.caption.split()) <= set(CAPTION_WORDS)
    assert made.caption
    assert made.meta["creator"] == "halfway"
    assert made.meta["caption_model"].startswith("blip2:")
    assert made.meta["t_start"] == run.config.creator.t_start


def test_a_variation_from_little_noise_stays_near_the_image(run):
    image = gradient_image(32, 32)
    near = run.vary(image, prompt="a bed", options=SamplingOptions(t_start=1, num_steps=1))[0]
    far = run.vary(image, prompt="a bed", options=SamplingOptions(t_start=900, num_steps=9))[0]
    assert near.meta["t_start"] == 1
    assert near.meta["caption_model"] == "user"
    # The tiny autoencoder is random: its own round trip is what "near" can be compared with.
    again = run.vary(image, prompt="a sofa", options=SamplingOptions(t_start=1, num_steps=1))[0]
    near_by, far_off = (
        np.abs(each.image.astype(float) - near.image).mean() for each in (again, far)
    )
    assert near_by < far_off


def test_the_samplers_steps_are_as_dense_as_the_runs(run):
    # Two steps from 600 in the run: three from 1000.
    assert run.sample("a bed")[0].meta["steps"] == 3
    assert run.vary(gradient_image(8, 8), prompt="")[0].meta["steps"] == 2


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_errors(run, wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = "):
        run.sample("a bed", **wrong)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(t_start=0),
        SamplingOptions(t_start=2000),
        SamplingOptions(num_steps=0),
        SamplingOptions(guidance_scale=0.5),
    ],
)
def test_a_samplers_number_out_of_range_is_an_error(run, options):
    with pytest.raises(ConfigError, match="wanted"):
        run.vary(gradient_image(8, 8), prompt="a bed", options=options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["source", "file"])
def test_a_captioner_that_sees_no_new_images_asks_for_a_prompt(tmp_path, kind):
    config = make_run(tmp_path, versions=1, model={"captioner": kind})
    with pytest.raises(ConfigError, match="give a prompt"):
        load_run(config.run.url).vary(gradient_image(8, 8))


def test_a_directory_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"wanted a run directory, found no config\.resolved"):
        load_run(tmp_path)


def test_a_run_without_weights_is_an_error(tmp_path):
    config = make_run(tmp_path, versions=0)
    with pytest.raises(ConfigError, match="no weights are published there yet"):
        load_run(config.run.url)


def test_weights_of_another_backbone_are_not_loaded(config):
    with pytest.raises(
        ConfigError, match=r"its digest is .* but the weights of .* were trained on"
    ):
        load_run(config.run.url, diffusion=str(tiny_diffusion_folder("epsilon")))


def test_weights_of_another_method_are_not_loaded(tmp_path):
    config = make_run(tmp_path, versions=1)
    store = open_store(config.run.url)
    text = store.read_bytes("config.resolved.yaml").decode()
    store.write_bytes(
        "config.resolved.yaml", text.replace("num_classes: 21", "num_classes: 22").encode()
    )
    with pytest.raises(ConfigError, match="another method than its weights"):
        load_run(config.run.url)


def test_damaged_weights_are_not_loaded(tmp_path):
    config = make_run(tmp_path, versions=1)
    store = open_store(config.run.url)
    path = "weights/v00000000/model.safetensors"
    store.write_bytes(path, store.read_bytes(path)[:-1] + b"\x01")
    with pytest.raises(ConfigError, match="no file with sha256"):
        load_run(config.run.url)


def test_a_run_whose_source_is_gone_needs_the_image_size(tmp_path):
    config = make_run(tmp_path, versions=1)
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="or give that size"):
        load_run(config.run.url)
    assert load_run(config.run.url, image_size=(32, 32)).image_size == (32, 32)


def test_a_run_in_memory_is_loaded_as_well(tmp_path):
    config = make_run(tmp_path, run={"url": "memory://loaded-run"}, versions=1)
    assert (
        load_run(config.run.url).tasks
        == make_config(tmp_path, method={"tasks": TASKS}).method.tasks
    )
