"""The ResNet encoder of DiffusionMTL."""

from __future__ import annotations

import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from perception.resnet import ResNetEncoder, make_resnet, resnet_config
from perception.vit import make_vit
from schemas.errors import ConfigError
from tests.kit.models.multi_task import num_parameters


def test_ratio_one_is_resnet_18() -> None:
    with torch.device("meta"):
        resnet = make_resnet(None, width_ratio=1.0)
    assert resnet.config.hidden_sizes == [64, 128, 256, 512]
    # ResNet-18's published 11,689,512 without its classifier of 1000 classes.
    assert num_parameters(resnet) == 11_689_512 - (512 + 1) * 1000


def test_a_tiny_one_keeps_depth_and_doubling_widths() -> None:
    found = resnet_config(0.1)
    assert (found.hidden_sizes, found.embedding_size) == ([16, 32, 64, 128], 16)
    assert (found.depths, found.layer_type) == ([2, 2, 2, 2], "basic")
    assert resnet_config(0.01).hidden_sizes == [16, 32, 64, 128]


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_maps_have_a_quarter_to_a_thirty_second_of_the_side(size) -> None:
    encoder = ResNetEncoder(make_resnet(None, width_ratio=0.1)).eval()
    maps = encoder(torch.randn(2, 3, *size))
    assert encoder.widths == (16, 32, 64, 128)
    strides = (4, 8, 16, 32)
    assert [tuple(each.shape) for each in maps] == [
        (2, width, -(-size[0] // stride), -(-size[1] // stride))
        for width, stride in zip(encoder.widths, strides, strict=True)
    ]
    assert all((each >= 0).all() for each in maps)


def test_a_pretrained_resnet_loads_from_a_folder_of_save_pretrained(tmp_path) -> None:
    saved = ResNetModel(resnet_config(0.1)).eval()
    saved.save_pretrained(tmp_path)
    loaded = make_resnet(str(tmp_path), width_ratio=1.0).eval()
    images = torch.randn(1, 3, 64, 64)
    for found, wanted in zip(
        ResNetEncoder(loaded)(images), ResNetEncoder(saved)(images), strict=True
    ):
        assert torch.equal(found, wanted)


def test_a_resnet_of_other_stages_is_refused(tmp_path) -> None:
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    ).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="wanted a ResNet of 4 stages, found 2"):
        make_resnet(str(tmp_path), width_ratio=1.0)


def test_another_network_is_refused(tmp_path) -> None:
    make_vit(None, width_ratio=0.1, vae_scale_factor=4).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="wanted a ResNet, found model_type 'vit'"):
        make_resnet(str(tmp_path), width_ratio=1.0)


def test_a_missing_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="none"):
        make_resnet(str(tmp_path / "none"), width_ratio=1.0)
