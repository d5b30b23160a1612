"""A U-Net walked in two halves."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from perception.pairs.halves import down_and_middle, expect_plain, skip_channels, up
from perception.seeding import sample_generator
from schemas.errors import ConfigError
from tests.kit.tiny_models import make_unet

TIMES = torch.tensor([3, 800])


def make_inputs(size):
    generator = sample_generator(0)
    return torch.randn(2, 4, *size, generator=generator), torch.randn(2, 5, 16, generator=generator)


@pytest.mark.parametrize("layout", ["starter", "stable"])
@pytest.mark.parametrize("size", [(8, 8), (10, 12), (9, 16)], ids=str)
@pytest.mark.parametrize("timestep", [40, TIMES], ids=["one", "each"])
@torch.no_grad()
def test_both_halves_give_the_unets_own_output_to_the_last_bit(layout, size, timestep):
    unet = make_unet(layout).eval()
    latents, context = make_inputs(size)
    descent = down_and_middle(unet, latents, timestep, context)
    expected = unet(latents, timestep, encoder_hidden_states=context).sample
    assert torch.equal(up(unet, descent, context), expected)
    assert tuple(each.shape[1] for each in descent.skips) == skip_channels(unet)


@torch.no_grad()
def test_what_is_added_to_a_descent_arrives_as_the_residuals_of_a_controlnet():
    unet = make_unet().eval()
    latents, context = make_inputs((8, 8))
    descent = down_and_middle(unet, latents, 40, context)
    generator = sample_generator(1)
    middle, *skips = (
        torch.randn(each.shape, generator=generator) for each in (descent.middle, *descent.skips)
    )
    expected = unet(
        latents,
        40,
        encoder_hidden_states=context,
        down_block_additional_residuals=tuple(skips),
        mid_block_additional_residual=middle,
    ).sample
    assert torch.equal(up(unet, descent.plus(middle, tuple(skips)), context), expected)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("class_embed_type", "timestep"),
        ("num_class_embeds", 10),
        ("addition_embed_type", "text_time"),
        ("encoder_hid_dim_type", "text_proj"),
        ("time_embedding_act_fn", "silu"),
        ("center_input_sample", True),
        ("mid_block_type", None),
    ],
)
def test_a_unet_that_reads_more_is_refused_by_the_name_of_the_setting(setting, value):
    config = dict(make_unet().config)
    expect_plain(config)
    with pytest.raises(ConfigError, match=f"{setting}.*use a Stable Diffusion"):
        expect_plain(config | {setting: value})


def test_a_unet_with_class_embeddings_is_refused():
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        num_class_embeds=3,
    )
    with pytest.raises(ConfigError, match="num_class_embeds': 3"):
        expect_plain(unet.config)
