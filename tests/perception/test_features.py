"""Feature maps: which, in which order, under which conditions."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from perception.diffusion.features import (
    FeatureSettings,
    extract_features,
    extract_features_from_latents,
    pyramid_channels,
    recorded_maps,
)
from perception.diffusion.latents import encode_moments
from perception.seeding import sample_generator
from schemas.errors import ConfigError
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone

LAYOUTS = ["starter", "stable"]
MODE = FeatureSettings(posterior="mode", add_noise=False)


def make_images(count=2, height=IMAGE_SIZE_PX, width=IMAGE_SIZE_PX):
    shape = (count, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def count_hooks(module):
    return sum(len(each._forward_hooks) for each in module.modules())


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(32, 32), (64, 32)])
def test_twenty_five_maps_fall_into_four_levels(layout, size):
    pyramid = extract_features(tiny_backbone("epsilon", layout), make_images(2, *size))
    assert [len(level) for level in pyramid.maps] == [6, 6, 6, 7]
    latent = size[0] // 4, size[1] // 4
    assert pyramid.sizes == tuple((latent[0] >> down, latent[1] >> down) for down in (3, 2, 1, 0))
    for level, (height, width) in zip(pyramid.maps, pyramid.sizes, strict=True):
        assert {(len(each), *each.shape[2:]) for each in level} == {(2, height, width)}


def test_sizes_that_do_not_halve_evenly_keep_their_levels():
    pyramid = extract_features(tiny_backbone(), make_images(1, 44, 36))
    assert [len(level) for level in pyramid.maps] == [6, 6, 6, 7]
    assert pyramid.sizes == ((2, 2), (3, 3), (6, 5), (11, 9))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_follow_from_the_configuration_alone(layout):
    backbone = tiny_backbone("epsilon", layout)
    assert extract_features(backbone, make_images(1)).channels == pyramid_channels(
        backbone.unet.config
    )


def test_channels_follow_from_the_configuration_of_other_depths():
    unet = UNet2DConditionModel(
        block_out_channels=(4, 8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=4,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    with torch.no_grad(), recorded_maps(unet) as levels:
        unet(torch.randn(1, 4, 8, 8), 0, encoder_hidden_states=torch.randn(1, 3, 4))
    found = tuple(tuple(each.shape[1] for each in level) for level in levels)
    assert found == pyramid_channels(unet.config)


@pytest.mark.slow
def test_stable_diffusion_has_the_published_maps():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
            sample_size=64,
        )
        with torch.no_grad(), recorded_maps(unet) as levels:
            unet(torch.empty(1, 4, 64, 64), 0, encoder_hidden_states=torch.empty(1, 77, 768))
    found = tuple(tuple(each.shape[1] for each in level) for level in levels)
    assert found == pyramid_channels(unet.config)
    assert [sum(level) for level in found] == [7680, 7040, 4160, 2560]
    assert [level[0].shape[-1] for level in levels] == [8, 16, 32, 64]
    # The order of the pass: stem and blocks down, middle, blocks up.
    assert found[0] == (1280,) * 6
    assert found[1] == (640, *(1280,) * 5)
    assert found[2] == (320, 640, 640, 1280, 640, 640)
    assert found[3] == (320, 320, 320, 640, 320, 320, 320)


def test_the_way_down_is_what_diffusers_hands_to_the_way_up():
    """The first 12 of the 25 maps are the skip connections, in their order."""
    backbone = tiny_backbone()
    handed_over = []

    def keep(_module, args, kwargs):
        handed_over.extend(reversed(kwargs["res_hidden_states_tuple"]))

    handles = [
        block.register_forward_pre_hook(keep, with_kwargs=True) for block in backbone.unet.up_blocks
    ]
    latents = torch.randn(1, 4, 8, 8, generator=sample_generator(0))
    try:
        pyramid = extract_features_from_latents(backbone, latents, settings=MODE)
    finally:
        for handle in handles:
            handle.remove()
    num_skips = {0: 3, 1: 3, 2: 3, 3: 3}
    recorded = [
        each for level, count in num_skips.items() for each in reversed(pyramid[level][:count])
    ]
    assert len(handed_over) == len(recorded) == 12
    assert all(left is right for left, right in zip(handed_over, recorded, strict=True))


def test_the_pass_runs_under_the_empty_prompt_at_the_timestep():
    backbone = tiny_backbone()
    latents = torch.randn(2, 4, 8, 8, generator=sample_generator(0))
    settings = FeatureSettings(timestep=50)
    pyramid = extract_features_from_latents(
        backbone, latents, generators=sample_generator(1), settings=settings
    )
    noise = torch.randn(2, 4, 8, 8, generator=sample_generator(1))
    noisy = backbone.schedule.add_noise(latents, noise, 50)
    with recorded_maps(backbone.unet) as levels:
        backbone.predict(noisy, 50, backbone.embed_text(["", ""]))
    for level, expected in zip(pyramid.maps, levels, strict=True):
        for left, right in zip(level, expected, strict=True):
            torch.testing.assert_close(left, right)


def test_default_features_see_scaled_posterior_samples_with_the_noise_of_index_zero():
    backbone = tiny_backbone()
    moments = encode_moments(backbone, make_images())
    generators = [sample_generator(seed) for seed in (3, 4)]
    pyramid = extract_features(backbone, moments, generators=generators)
    rows = []
    for i, seed in enumerate((3, 4)):
        generator = sample_generator(seed)
        first, second = (torch.randn(4, 8, 8, generator=generator) for _ in range(2))
        latents = (moments.mean[i] + moments.std[i] * first) * 0.18215
        rows.append(0.99915**0.5 * latents + (1 - 0.99915) ** 0.5 * second)
    expected = extract_features_from_latents(backbone, torch.stack(rows), settings=MODE)
    for left, right in zip(pyramid[3], expected[3], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


def test_a_samples_features_do_not_depend_on_its_batch():
    backbone = tiny_backbone()
    images = make_images(3)
    together = extract_features(
        backbone, images, generators=[sample_generator(seed) for seed in (1, 2, 3)]
    )
    alone = extract_features(backbone, images[1:2], generators=[sample_generator(2)])
    for level, single in zip(together.maps, alone.maps, strict=True):
        for left, right in zip(level, single, strict=True):
            torch.testing.assert_close(left[1:2], right, rtol=1e-3, atol=1e-4)


def test_without_noise_the_features_are_deterministic_and_with_it_they_are_not():
    backbone, images = tiny_backbone(), make_images(1)
    assert MODE.is_deterministic
    first, again = (extract_features(backbone, images, settings=MODE) for _ in range(2))
    assert torch.equal(first[0][0], again[0][0])
    first, again = (extract_features(backbone, images) for _ in range(2))
    assert not torch.equal(first[0][0], again[0][0])


def test_the_convention_of_unscaled_latents_can_be_chosen():
    backbone, images = tiny_backbone(), make_images(1)
    unscaled = FeatureSettings(timestep=1, posterior="mode", scale_latents=False, add_noise=False)
    found = extract_features(backbone, images, settings=unscaled)
    mean = encode_moments(backbone, images).mean
    expected = extract_features_from_latents(backbone, mean, settings=unscaled)
    assert torch.equal(found[0][0], expected[0][0])


def test_hooks_are_removed_even_after_an_error():
    backbone = tiny_backbone()
    before = count_hooks(backbone.unet)
    extract_features(backbone, make_images(1))
    with pytest.raises(RuntimeError):
        extract_features_from_latents(backbone, torch.randn(1, 3, 8, 8))
    assert count_hooks(backbone.unet) == before


def test_passes_of_another_thread_are_not_recorded():
    backbone = tiny_backbone()
    latents, context = torch.randn(1, 4, 8, 8), backbone.embed_text(["a bed"])
    stop = threading.Event()

    def keep_predicting():
        while not stop.is_set():
            backbone.predict(latents, 300, context)

    other = threading.Thread(target=keep_predicting)
    other.start()
    try:
        pyramids = [extract_features(backbone, make_images(1)) for _ in range(5)]
    finally:
        stop.set()
        other.join()
    assert all([len(level) for level in each.maps] == [6, 6, 6, 7] for each in pyramids)


def test_maps_train_an_adapter_and_leave_the_backbone_alone():
    backbone = tiny_backbone()
    pyramid = extract_features(backbone, make_images())
    adapter = torch.nn.Conv2d(sum(pyramid.channels[3]), 3, kernel_size=1)
    adapter(torch.cat(pyramid[3], dim=1)).square().mean().backward()
    assert adapter.weight.grad.abs().sum() > 0
    for network in (backbone.unet, backbone.vae):
        assert all(each.grad is None and not each.requires_grad for each in network.parameters())


@pytest.mark.parametrize("wrong", [{"timestep": 1000}, {"timestep": -1}, {"posterior": "mean"}])
def test_wrong_settings_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FeatureSettings(**wrong)
