"""What lies in place of weights is said, and no recipe is given that cannot work."""

from __future__ import annotations

import os

import pytest

from perception.diffusion.single_file import read_checkpoint_header
from perception.weight_files import find_weights, read_header
from schemas.errors import ConfigError

PAGE = b"\n<!DOCTYPE html>\n<html><body>Sign in to download</body></html>"


def test_a_web_page_in_place_of_weights_is_said_to_be_one(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(PAGE)
    for read in (read_header, read_checkpoint_header):
        with pytest.raises(ConfigError, match="found an HTML page; download the file itself"):
            read(file)


@pytest.mark.parametrize("content", [b"GGUF" + bytes(100), bytes(100)])
def test_gguf_is_given_no_recipe_of_another_format(tmp_path, content):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"download the model's \.?safetensors") as caught:
        read_checkpoint_header(file)
    with pytest.raises(ConfigError, match="download the model's safetensors") as of_folder:
        find_weights(tmp_path, "model")
    assert "torch.load" not in str(caught.value)
    assert "from_pretrained" not in str(of_folder.value)


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_one_file_of_weights_is_named(tmp_path):
    file = tmp_path / "model.safetensors"
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="wanted a file, found a named pipe"):
        read_checkpoint_header(file)
