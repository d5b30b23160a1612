"""Captioners: BLIP-2, files, none."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from perception.captioner import Blip2Captioner, NoCaptions
from perception.shapes import ShapeError
from schemas.errors import ConfigError
from tests.kit.tiny_models import CAPTION_WORDS, tiny_captioner, tiny_captioner_folder


def make_images(count=5):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (24 + i, 40, 3), dtype=np.uint8) for i in range(count)]


def test_captions_are_words_about_the_image_and_the_same_each_time():
    images = make_images()
    captions = tiny_captioner().caption(images)
    assert len(captions) == len(images)
    assert captions == tiny_captioner().caption(images)
    assert len(set(captions)) > 1
    for caption in captions:
        assert set(caption.split()) <= set(CAPTION_WORDS)
        assert 1 <= len(caption.split()) <= tiny_captioner().max_new_tokens


def test_a_caption_does_not_depend_on_the_batch():
    images = make_images()
    one_by_one = Blip2Captioner.load(tiny_captioner_folder(), max_new_tokens=6, batch_size=1)
    assert one_by_one.caption(images) == tiny_captioner().caption(images)
    assert one_by_one.model_id == tiny_captioner().model_id
    assert tiny_captioner().caption([]) == []


@pytest.fixture
def old_folder(tmp_path):
    """As releases of transformers before 4.46 wrote it: no image token, no processor."""
    folder = shutil.copytree(tiny_captioner_folder(), tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    del config["image_token_index"]
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    old = {**processor["image_processor"], "processor_class": "Blip2Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    return folder


@pytest.mark.parametrize("knows_image", [True, False])
def test_a_folder_of_an_older_release_gives_the_same_captions(old_folder, knows_image):
    if not knows_image:
        names = ("tokenizer.json", "tokenizer_config.json")
        for path in (old_folder / name for name in names):
            path.write_text(path.read_text().replace("<image>", "<picture>"))
    captioner = Blip2Captioner.load(old_folder, max_new_tokens=6, local_files_only=True)
    assert captioner.caption(make_images()) == tiny_captioner().caption(make_images())


def test_a_captioner_that_fails_on_every_image_is_refused_when_it_is_loaded(tmp_path):
    folder = shutil.copytree(tiny_captioner_folder(), tmp_path / "captioner")
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["image_processor"]["size"] = {"height": 64, "width": 64}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ConfigError, match=r"model\.captioner_path: .*cannot caption a grey image"):
        Blip2Captioner.load(folder)


def test_a_missing_captioner_is_named_with_a_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.*Train or copy the model"):
        Blip2Captioner.load(tmp_path / "absent", local_files_only=True)


def test_captioner_weights_that_are_not_safetensors_are_refused(tmp_path):
    folder = shutil.copytree(tiny_captioner_folder(), tmp_path / "captioner")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="only safetensors"):
        Blip2Captioner.load(folder)


def test_limits_must_be_positive():
    with pytest.raises(ConfigError, match="max_new_tokens"):
        Blip2Captioner.load(tiny_captioner_folder(), max_new_tokens=0)


def test_images_must_be_rgb_bytes():
    with pytest.raises(ShapeError, match="H, W, 3"):
        tiny_captioner().caption([np.zeros((8, 8), dtype=np.uint8)])
    with pytest.raises(ShapeError, match="uint8"):
        tiny_captioner().caption([np.zeros((8, 8, 3))])


def test_no_captions_are_empty_prompts():
    assert NoCaptions().caption(make_images(2)) == ["", ""]
    assert NoCaptions().model_id == "none"
