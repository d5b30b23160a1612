"""JointNet at the published sizes: Stable Diffusion v1.5 and 2.1, without their memory."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel

from perception.pairs.jointnet import JointNetwork, make_joint_network
from perception.pairs.known import nothing_known
from perception.pairs.latents import draw_pair_noise
from perception.pairs.links import BranchLinks
from perception.pairs.sampler import sample_pairs
from perception.pairs.tiles import PANORAMA, TiledNetwork
from tests.kit.models.meta_backbone import meta_backbone
from tests.kit.models.real_shapes import count_parameters


def make(backbone, **choices) -> JointNetwork:
    with torch.device("meta"):
        return make_joint_network(backbone, ("normals",), **choices)


def count_all(network: JointNetwork) -> int:
    frozen = {id(each): each.numel() for each in network.rgb.frozen_tensors()}
    frozen |= {id(each): each.numel() for each in network.joint.frozen_tensors()}
    return count_parameters(network) + sum(frozen.values())


def make_unet_of_2_1() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
            sample_size=64,
        ).requires_grad_(False)


@pytest.mark.slow
def test_links_are_as_many_as_computed_by_hand():
    unet = meta_backbone().unet
    with torch.device("meta"):
        plain, told = (BranchLinks(unet, reads_known=reads) for reads in (False, True))
    assert [link.out_channels for link in plain.skips] == [320] * 4 + [640] * 3 + [1280] * 5
    assert count_parameters(plain) == 11_491_520
    assert count_parameters(told) - count_parameters(plain) == 29_120


@pytest.mark.slow
def test_on_stable_diffusion_1_5_half_of_the_parameters_train():
    plain, told = (make(meta_backbone(), reads_known=reads) for reads in (False, True))
    assert count_all(plain) == 1_742_024_968
    assert count_all(told) == 1_742_083_208
    assert count_parameters(plain) == 882_504_004
    plain.learn_rgb()
    assert count_parameters(plain) == count_all(plain) == 1_742_024_968


@pytest.mark.slow
def test_on_stable_diffusion_2_1_half_of_the_parameters_train():
    backbone = dataclasses.replace(meta_backbone(), unet=make_unet_of_2_1())
    network = make(backbone, reads_known=False)
    assert count_all(network) == 1_754_804_488
    assert count_parameters(network) == 888_893_764
    assert count_all(make(backbone)) == 1_754_862_728


@pytest.mark.slow
def test_low_rank_terms_with_links_are_a_seventieth_of_the_two_branches():
    network = make(meta_backbone(), joint_branch="lora", reads_known=False)
    assert count_parameters(network) == 2 * 11_491_520 + 1_594_368
    assert count_all(network) == 859_520_964 + count_parameters(network)
    assert count_parameters(copy.deepcopy(network)) == count_parameters(network)


@pytest.mark.slow
@torch.no_grad()
def test_a_pair_of_512_pixels_is_two_latents_of_64():
    network = make(meta_backbone())
    known = nothing_known(torch.empty(2, 4, 64, 64, device="meta"), network.tasks)
    noise = draw_pair_noise(known.latents)
    estimate = network.denoise(noise, 999, torch.empty(2, 77, 768, device="meta"), known)
    moved = network.move(noise, estimate, 999, 979)
    assert moved.image.shape == moved.maps["normals"].shape == (2, 4, 64, 64)


@pytest.mark.slow
@torch.no_grad()
def test_a_panorama_is_made_on_the_networks_device():
    network = make(meta_backbone())
    known = nothing_known(torch.empty(1, 4, 64, 96, device="meta"), network.tasks)
    tiled = TiledNetwork(network, PANORAMA, timesteps=(999,), num_samples=1)
    made = sample_pairs(
        tiled,
        known,
        torch.empty(1, 77, 768, device="meta"),
        timesteps=(999,),
        generators=None,
    )
    assert made.image.shape == made.maps["normals"].shape == (1, 4, 64, 96)
    assert made.image.device == torch.device("meta")
