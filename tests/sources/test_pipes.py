"""What is no plain file is named and never waited for."""

from __future__ import annotations

import os

import pytest
import yaml

from deployment.inputs import find_images
from perception.file_captions import FileCaptions
from perception.model_headers import read_encoder_headers
from schemas.config_file import load_config
from schemas.config_source import FolderSource as FolderConfig
from schemas.errors import ConfigError, SourceError, UserError
from schemas.sample import UnreadableSample
from sources.folder import FolderSource
from tests.kit.folder_files import read_all, write_folder

pytestmark = pytest.mark.timeout(20)


def pipe_at(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@pytest.fixture
def root(tmp_path):
    return tmp_path / "photographs"


@pytest.fixture
def tree(root):
    root.mkdir()
    return write_folder(root)


def opened(tree, tmp_path):
    file = tmp_path / "folder.yaml"
    file.write_text(yaml.safe_dump(tree))
    return FolderSource(FolderConfig(kind="folder", description=str(file)), ("depth",))


def said_of(tree, tmp_path):
    """Why a source is refused, or its samples that cannot be read."""
    try:
        samples = read_all(opened(tree, tmp_path), "train")
    except SourceError as error:
        return str(error)
    return " ".join(each.detail for each in samples if isinstance(each, UnreadableSample))


@pytest.mark.parametrize("kind", ["rgb", "depth"])
def test_a_pipe_among_images_or_labels_is_named_and_the_others_are_read(root, tree, tmp_path, kind):
    pipe = pipe_at(sorted((root / kind).iterdir())[1])
    assert str(pipe) in said_of(tree, tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (pipe_at, "wanted a file, found a named pipe"),
        (lambda path: path.unlink() or path.mkdir(), "wanted a file, found a folder"),
        (lambda path: path.unlink(), "no such file"),
    ],
    ids=["pipe", "folder", "nothing"],
)
def test_what_lies_in_place_of_a_list_or_description_is_said(root, tree, tmp_path, make, words):
    make(root / "train.txt")
    with pytest.raises(SourceError, match=rf"splits.train.list = .*{words}"):
        opened(tree, tmp_path)
    file = tmp_path / "other.yaml"
    file.touch()
    make(file)
    with pytest.raises(SourceError, match=rf"source.description = .*{words}; docs/howto"):
        FolderSource(FolderConfig(kind="folder", description=str(file)), ("depth",))
    with pytest.raises(ConfigError, match=rf"--config .*{words}; the shipped ones"):
        load_config(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_configuration_that_may_not_be_read_is_named_with_a_remedy(tmp_path):
    file = tmp_path / "config.yaml"
    file.touch(mode=0)
    with pytest.raises(ConfigError, match="Permission denied; let this user read it"):
        load_config(file)


@pytest.mark.parametrize("name", ["captions.json", "captions/0.txt"])
def test_captions_are_not_waited_for(tmp_path, name):
    (tmp_path / "captions").mkdir()
    pipe = pipe_at(tmp_path / name)
    with pytest.raises(ConfigError, match=r"found a named pipe|found no captions"):
        FileCaptions.load(pipe if pipe.suffix == ".json" else pipe.parent)


def test_a_pipe_is_no_picture_to_predict_for(tmp_path):
    with pytest.raises(ConfigError, match="found a named pipe; name a picture"):
        find_images([pipe_at(tmp_path / "a.png")])


def test_a_pipe_is_no_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    pipe_at(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"wanted model.safetensors"):
        read_encoder_headers(tmp_path)
