"""The published sizes: Stable Diffusion v1.5 and BLIP-2, without their memory."""

from __future__ import annotations

import copy

import pytest
import torch

from perception.adapter import DiffusionAdapter, bae_channel_plan
from perception.diffusion.features import extract_features, pyramid_channels
from perception.diffusion.halfway import synthesize_latents
from perception.diffusion.latents import encode_moments
from perception.diffusion.tuning import TunedUnet, with_lora
from perception.methods.bae import make as make_bae
from perception.methods.spec import method_spec
from schemas.config import CreatorSection
from schemas.config_method import MethodSection
from tests.kit.models.meta_backbone import meta_backbone, meta_images
from tests.kit.models.real_shapes import (
    BLIP2_NUM_WORDS,
    CLIP_NUM_WORDS,
    count_parameters,
    make_blip2,
    make_blip2_tokenizer,
    make_text_encoder,
    make_tokenizer,
)


@pytest.mark.slow
def test_parameters_are_as_many_as_published():
    backbone = meta_backbone()
    assert count_parameters(backbone.unet) == 859_520_964
    assert count_parameters(backbone.vae) == 83_653_863
    with torch.device("meta"):
        assert count_parameters(make_text_encoder()) == 123_060_480
        blip2 = make_blip2()
    assert count_parameters(blip2) / 1e9 == pytest.approx(3.74, abs=0.005)
    assert len(make_tokenizer()) == CLIP_NUM_WORDS
    assert len(make_blip2_tokenizer()) == BLIP2_NUM_WORDS


@pytest.mark.slow
def test_an_image_of_512_gives_the_25_published_maps():
    backbone = meta_backbone()
    assert encode_moments(backbone, meta_images()).mean.shape == (1, 4, 64, 64)
    pyramid = extract_features(backbone, meta_images())
    assert [len(level) for level in pyramid.maps] == [6, 6, 6, 7]
    assert [sum(level) for level in pyramid.channels] == [7680, 7040, 4160, 2560]
    assert pyramid.sizes == ((8, 8), (16, 16), (32, 32), (64, 64))
    assert pyramid.channels == pyramid_channels(backbone.unet.config)


@pytest.mark.slow
def test_the_adapter_makes_the_published_pyramid():
    backbone = meta_backbone()
    plan = bae_channel_plan(backbone.block_out_channels, backbone.downsample_factor)
    with torch.device("meta"):
        adapter = DiffusionAdapter(pyramid_channels(backbone.unet.config), plan).eval()
    maps = adapter(extract_features(backbone, meta_images()).maps)
    assert [tuple(each.shape[1:]) for each in maps] == [
        (2048, 16, 16),
        (176, 32, 32),
        (64, 64, 64),
        (40, 128, 128),
        (24, 256, 256),
    ]


@pytest.mark.slow
def test_halfway_synthesis_keeps_the_latents_shape():
    settings = CreatorSection(num_steps=1, guidance_scale=7.5)
    made = synthesize_latents(
        meta_backbone(), meta_images(2), ["a bed", ""], settings=settings, seeds=[1, 2]
    )
    assert made.shape == (2, 4, 64, 64)


@pytest.mark.slow
def test_the_method_of_the_paper_predicts_at_the_images_size():
    backbone = meta_backbone()
    with torch.device("meta"):
        method = make_bae(method_spec(MethodSection(), backbone))
    predictions = method.predict(method.observe(backbone, meta_images(2)), (512, 512))
    assert predictions.labels["normals"].shape == (2, 3, 512, 512)
    assert predictions.reliability["normals"].shape == (2, 1, 512, 512)
    assert count_parameters(method) / 1e6 == pytest.approx(97.0, abs=60.0)


@pytest.mark.slow
def test_low_rank_terms_are_a_five_hundredth_of_the_unet():
    backbone = meta_backbone()
    with torch.device("meta"):
        tuned = TunedUnet(with_lora(backbone.unet, rank=8), dtype=torch.float32, lr_factor=0.1)
    assert count_parameters(tuned) == 1_594_368
    assert len(tuned.state_dict()) == 16 * 2 * 4 * 2, "blocks, self and cross, projections, factors"
    assert sum(tensor.numel() for tensor in tuned.frozen_tensors()) == 859_520_964
    made = copy.deepcopy(tuned)
    assert {id(each) for each in made.frozen_tensors()} == {
        id(each) for each in backbone.unet.parameters()
    }
    pyramid = extract_features(backbone, meta_images(), tuned=made)
    assert [sum(level) for level in pyramid.channels] == [7680, 7040, 4160, 2560]
    assert all(each.requires_grad for level in pyramid.maps[:2] for each in level[1:])
