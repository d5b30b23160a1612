"""Captioning models of transformers other than BLIP-2."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from perception.captioner_image_to_text import ImageToTextCaptioner
from perception.shapes import ShapeError
from schemas.errors import ConfigError
from tests.kit.models.tiny_captioners import write_captioner
from tests.kit.tiny_models import CAPTION_WORDS, tiny_captioner_folder

KINDS = ["blip", "git", "vision-encoder-decoder"]


def make_images(count=4):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (24 + i, 40, 3), dtype=np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioners")
    return {kind: write_captioner(kind, root / kind) for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_words_and_do_not_depend_on_the_batch(folders, kind):
    captioner = ImageToTextCaptioner.load(folders[kind], max_new_tokens=6, local_files_only=True)
    captions = captioner.caption(make_images())
    assert len(captions) == 4
    assert any(captions)
    assert all(set(caption.split()) <= set(CAPTION_WORDS) for caption in captions)
    one_by_one = ImageToTextCaptioner.load(folders[kind], max_new_tokens=6, batch_size=1)
    assert one_by_one.caption(make_images()) == captions
    assert captioner.caption([]) == []
    assert not any(parameter.requires_grad for parameter in captioner.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_id_names_the_model_and_its_files(folders, kind, tmp_path):
    folder = shutil.copytree(folders[kind], tmp_path / "elsewhere")
    first = ImageToTextCaptioner.load(folders[kind]).model_id
    assert first.startswith(f"{kind}:")
    assert ImageToTextCaptioner.load(folder).model_id == first
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "max_length": 9}))
    assert ImageToTextCaptioner.load(folder).model_id != first


def test_captions_follow_the_image(folders):
    images = [np.full((32, 32, 3), value, dtype=np.uint8) for value in (0, 90, 180, 255)]
    captions = ImageToTextCaptioner.load(folders["blip"], max_new_tokens=6).caption(images)
    assert len(set(captions)) > 1


def test_half_precision_still_gives_words(folders):
    captioner = ImageToTextCaptioner.load(
        folders["git"], max_new_tokens=6, dtype=torch.bfloat16, local_files_only=True
    )
    assert {each.dtype for each in captioner.model.parameters()} == {torch.bfloat16}
    assert all(set(text.split()) <= set(CAPTION_WORDS) for text in captioner.caption(make_images()))


def test_other_models_are_refused_with_a_remedy(folders, tmp_path):
    with pytest.raises(ConfigError, match="use blip2 for it"):
        ImageToTextCaptioner.load(tiny_captioner_folder())
    with pytest.raises(ConfigError, match="max_new_tokens"):
        ImageToTextCaptioner.load(folders["git"], max_new_tokens=0)
    with pytest.raises(ConfigError, match="Train or copy the model"):
        ImageToTextCaptioner.load(tmp_path / "absent", local_files_only=True)
    folder = shutil.copytree(folders["git"], tmp_path / "git")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ConfigError, match=r"conversational git.*captioner file"):
        ImageToTextCaptioner.load(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="found a gpt2"):
        ImageToTextCaptioner.load(folder)


def test_weights_that_are_not_safetensors_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["git"], tmp_path / "git")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="only safetensors"):
        ImageToTextCaptioner.load(folder)


def test_images_must_be_rgb_bytes(folders):
    captioner = ImageToTextCaptioner.load(folders["git"])
    with pytest.raises(ShapeError, match="uint8"):
        captioner.caption([np.zeros((8, 8, 3))])


def test_a_captioner_that_fails_on_every_image_is_refused_when_it_is_loaded(folders, tmp_path):
    folder = shutil.copytree(folders["blip"], tmp_path / "blip")
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor["size"] = {"height": 64, "width": 64}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ConfigError, match=r"model\.captioner_path: .*cannot caption a grey image"):
        ImageToTextCaptioner.load(folder)
