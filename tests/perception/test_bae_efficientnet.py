"""Bae's decoder on an encoder of its own: the external model."""

from __future__ import annotations

import pytest
import torch

from perception.methods.bae_efficientnet import encode, make
from schemas.errors import ConfigError
from tests.kit.models.pyramids import make_spec


def make_method(seed=0):
    torch.manual_seed(seed)
    return make(make_spec())


def images(seed=0):
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.slow
def test_the_published_encoder_has_the_widths_that_the_decoder_was_made_for():
    spec = make_spec(blocks=(320, 640, 1280, 1280), factor=8)
    with torch.device("meta"):
        method = make(spec)
        maps = encode(method.encoder, torch.zeros(1, 3, 512, 512))
    assert [(each.shape[1], each.shape[-1]) for each in maps] == [
        (2048, 16),
        (176, 32),
        (64, 64),
        (40, 128),
        (24, 256),
    ]
    assert 28.3e6 < sum(p.numel() for p in method.encoder.parameters()) < 28.4e6


def test_other_tasks_are_refused():
    with pytest.raises(ConfigError, match=r"normals alone; set method\.tasks"):
        make(make_spec(tasks=("normals", "depth")))


def test_a_pretrained_encoder_is_loaded_from_its_folder(tmp_path):
    method = make_method(seed=3)
    method.encoder.save_pretrained(tmp_path / "encoder")
    torch.manual_seed(0)
    loaded = make(make_spec(encoder=str(tmp_path / "encoder")))
    pixels = images()
    for ours, theirs in zip(
        encode(method.encoder.eval(), pixels), encode(loaded.encoder.eval(), pixels), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ConfigError, match="no_such"):
        make(make_spec(encoder=str(tmp_path / "no_such")))
