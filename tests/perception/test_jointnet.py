"""JointNet: what both branches are at the start, what passes between them, what trains."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional

from perception.diffusion.tuning import TunedUnet
from perception.pairs.jointnet import JointNetwork, make_joint_network
from perception.pairs.known import MaskShares
from perception.pairs.latents import on_each
from perception.pairs.links import BranchLinks
from perception.pairs.network import Known, PairLatents
from perception.pairs.noised import draw_noised
from perception.seeding import sample_generator
from schemas.errors import ConfigError
from tests.kit.models.pairs import (
    TASK,
    backbone_of,
    context_of,
    make_tiny,
    random_known,
    random_pair,
    shift,
)
from tests.kit.models.real_shapes import count_parameters
from tests.kit.tiny_models import tiny_backbone
from trainers.learner import parameter_groups

BRANCHES = ["copy", "lora"]
TIMES = torch.tensor([20, 700])


def base_output(latents, timestep=300, unet=None):
    unet = tiny_backbone().unet if unet is None else unet
    return unet(latents, timestep, encoder_hidden_states=context_of(len(latents))).sample


def predict(network, pair=None, known=None, timestep=300):
    pair = pair or random_pair()
    return network(pair, timestep, context_of(len(pair.image)), known or random_known())


def swapped(pair):
    return PairLatents(pair.maps[TASK], {TASK: pair.image})


def equal(left, right):
    return torch.equal(left.image, right.image) and torch.equal(left.maps[TASK], right.maps[TASK])


def draw(count=4, **choices):
    generators = [sample_generator(100 + i) for i in range(count)]
    pair = random_pair(count)
    return draw_noised(pair, backbone_of().schedule, generators=generators, **choices)


def backward(network, drawn=None):
    drawn = drawn or draw()
    loss, terms = network.training_loss(drawn, context_of(len(drawn.timestep)))
    loss.backward()
    return loss, terms


def backward_of_one(network, part):
    drawn = draw()
    found = network(drawn.noisy, drawn.timestep, context_of(4), drawn.known)
    (found.image if part == "image" else found.maps[TASK]).square().mean().backward()


@pytest.mark.parametrize("joint_branch", BRANCHES)
@pytest.mark.parametrize("timestep", [300, TIMES], ids=["one", "each"])
@torch.no_grad()
def test_at_the_start_each_branch_is_the_unet_to_the_last_bit_whatever_is_known(
    joint_branch, timestep
):
    network, pair = make_tiny(joint_branch=joint_branch), random_pair()
    for seed in (5, 6):
        found = predict(network, pair, random_known(seed=seed), timestep)
        assert torch.equal(found.image, base_output(pair.image, timestep))
        assert torch.equal(found.maps[TASK], base_output(pair.maps[TASK], timestep))


def test_a_branch_sends_twelve_skips_and_a_middle_and_receives_latents_and_what_is_known():
    links = make_tiny().rgb_links
    shapes = [tuple(link.weight.shape) for link in links.skips]
    widths = [8] * 4 + [16] * 3 + [24] * 3 + [32] * 2
    assert shapes == [(width, width, 1, 1) for width in widths]
    assert links.middle.weight.shape == (32, 32, 1, 1)
    assert links.exchange.weight.shape == (8, 4, 3, 3)
    assert links.known.weight.shape == (8, 10, 3, 3)
    assert all(not each.any() for each in links.parameters())


def test_the_starters_networks_have_as_many_parameters_as_computed_by_hand():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64, 96, 128),
            down_block_types=(
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(1, 2, 3, 4),
            norm_num_groups=16,
            cross_attention_dim=128,
        )
        plain, masked = (BranchLinks(unet, reads_known=reads) for reads in (False, True))
    base = count_parameters(unet)
    assert base == 6_864_580
    assert 2 * (base + count_parameters(plain)) == 13_919_880
    assert 2 * (base + count_parameters(masked)) == 13_925_704
    assert base + 2 * count_parameters(masked) == 7_061_124


@torch.no_grad()
def test_swapping_equal_branches_and_their_inputs_swaps_the_outputs():
    network = make_tiny()
    shift(network.rgb_links, seed=1)
    network.joint_links.load_state_dict(network.rgb_links.state_dict())
    pair, known = random_pair(), random_known()
    found = predict(network, pair, known)
    turned = predict(network, swapped(pair), Known(swapped(known.latents), swapped(known.masks)))
    assert equal(swapped(found), turned)
    assert not torch.allclose(found.image, base_output(pair.image), atol=1e-3)


@pytest.mark.slow
def test_after_steps_of_the_first_stage_the_images_unet_is_unchanged():
    network = make_tiny()
    frozen = [each.clone() for each in network.rgb.frozen_tensors()]
    optimizer = torch.optim.AdamW(parameter_groups(network), lr=1e-3)
    before, drawn, losses = predict(network).image.detach(), draw(), []
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(backward(network, drawn)[0].item())
        optimizer.step()
    assert losses[-1] < losses[0]
    for now, then in zip(network.rgb.frozen_tensors(), frozen, strict=True):
        assert torch.equal(now, then)
    for mine, shared in zip(
        network.rgb.frozen_tensors(), tiny_backbone().unet.parameters(), strict=False
    ):
        assert mine is shared
    # Its weights are; its output is not, for the links into it have learnt.
    assert not torch.allclose(predict(network).image, before, atol=1e-5)


def test_every_link_of_both_branches_learns_from_the_first_step():
    network = make_tiny()
    backward(network)
    for links in (network.rgb_links, network.joint_links):
        for name, parameter in links.named_parameters():
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
def test_nothing_flows_through_links_in_the_first_step():
    network = make_tiny(rgb_lr_factor=0.1)
    for part, other in (("image", network.joint), ("map", network.rgb)):
        network.zero_grad()
        backward_of_one(network, part)
        assert all(each.grad is None or not each.grad.any() for each in other.parameters())
        mine = network.rgb if part == "image" else network.joint
        assert all(each.grad is not None for each in mine.parameters())
    shift(network.rgb_links, seed=1)
    network.zero_grad()
    backward_of_one(network, "map")
    assert any(each.grad is not None and each.grad.any() for each in network.rgb.parameters())


@torch.no_grad()
def test_with_links_at_zero_the_loss_is_the_sum_of_the_losses_of_the_unet():
    network, drawn = make_tiny(), draw()
    loss, terms = network.training_loss(drawn, context_of(4))
    expected = {}
    for name, clean, noise in (
        ("image", drawn.clean.image, drawn.noise.image),
        (TASK, drawn.clean.maps[TASK], drawn.noise.maps[TASK]),
    ):
        noisy = network.schedule.add_noise(clean, noise, drawn.timestep)
        wanted = network.schedule.training_target(clean, noise, drawn.timestep)
        expected[name] = functional.mse_loss(base_output(noisy, drawn.timestep), wanted).item()
    assert terms == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_a_network_that_predicts_the_target_has_no_loss_and_finds_image_and_map(prediction_type):
    schedule = backbone_of(prediction_type).schedule
    drawn = draw()
    t = 400
    noisy = on_each(lambda z, n: schedule.add_noise(z, n, t), drawn.clean, drawn.noise)
    target = on_each(lambda z, n: schedule.training_target(z, n, t), drawn.clean, drawn.noise)
    network = PerfectNetwork(target, schedule)
    drawn = dataclasses.replace(drawn, noisy=noisy, timestep=torch.full((4,), t))
    assert network.training_loss(drawn, context_of(4))[0] == 0
    estimate = network.denoise(noisy, t, context_of(4), drawn.known)
    for found, wanted in ((estimate.clean, drawn.clean), (estimate.noise, drawn.noise)):
        torch.testing.assert_close(found.image, wanted.image, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.maps[TASK], wanted.maps[TASK], rtol=1e-4, atol=1e-4)


class PerfectNetwork(JointNetwork):
    """Predicts what it is given."""

    def __init__(self, target, schedule):
        torch.nn.Module.__init__(self)
        self.target, self.schedule, self.tasks = target, schedule, (TASK,)

    def forward(self, noisy, timestep, context, known):
        return self.target


@torch.no_grad()
def test_latents_without_a_valid_pixel_do_not_count_in_the_maps_loss():
    network, drawn = make_tiny(), draw()
    weights = torch.ones(4, 1, 8, 8)
    weights[:2] = 0
    _, terms = network.training_loss(drawn, context_of(4), map_weights={TASK: weights})
    found = network(drawn.noisy, drawn.timestep, context_of(4), drawn.known).maps[TASK]
    wanted = network.schedule.training_target(
        drawn.clean.maps[TASK], drawn.noise.maps[TASK], drawn.timestep
    )
    assert terms[TASK] == pytest.approx(functional.mse_loss(found[2:], wanted[2:]).item())
    _, none = network.training_loss(drawn, context_of(4), map_weights={TASK: weights * 0})
    assert none[TASK] == 0
    assert none["image"] == terms["image"]


@torch.no_grad()
def test_the_second_stage_starts_as_the_first_one_ended():
    network = make_tiny(seed=1)
    before = predict(network)
    network.learn_rgb(lr_factor=0.1)
    assert equal(predict(network), before)
    frozen, trained = count_parameters(make_tiny()), count_parameters(network)
    assert trained - frozen == count_parameters(tiny_backbone().unet)
    groups = parameter_groups(network)
    assert [group["lr_factor"] for group in groups] == [0.1, 1.0]
    listed = [parameter for group in groups for parameter in group["params"]]
    assert all(left is right for left, right in zip(listed, network.parameters(), strict=True))


@torch.no_grad()
def test_a_network_that_is_told_what_is_known_starts_as_the_plain_one_for_every_mask():
    plain, told = make_tiny(reads_known=False, seed=1), make_tiny()
    missing, unexpected = told.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[1] for name in missing} == {"known"}
    for seed in (5, 6):
        known = random_known(seed=seed)
        assert equal(predict(told, known=known), predict(plain, known=known))


@torch.no_grad()
def test_what_is_known_changes_the_prediction_where_a_mask_is_zero_alone():
    network, known = make_tiny(seed=1), random_known()
    hidden = on_each(lambda z, mask: z + 7 * mask, known.latents, known.masks)
    seen = on_each(lambda z, mask: z + 7 * (1 - mask), known.latents, known.masks)
    expected = predict(network, known=known)
    assert equal(predict(network, known=Known(hidden, known.masks)), expected)
    assert not equal(predict(network, known=Known(seen, known.masks)), expected)


@torch.no_grad()
def test_a_branch_equals_the_unet_with_the_residuals_that_the_other_one_sent():
    """The split walk against diffusers' own path for a ControlNet."""
    network, pair = make_tiny(seed=1), random_pair()
    sent, unet = {}, network.rgb.unet
    for i, link in enumerate((network.joint_links.middle, *network.joint_links.skips)):
        link.register_forward_hook(lambda _m, _i, output, i=i: sent.update({i: output}))
    received = []
    network.rgb_links.exchange.register_forward_hook(lambda _m, _i, out: received.append(out))
    network.rgb_links.known.register_forward_hook(lambda _m, _i, out: received.append(out))
    found = predict(network, pair)
    handle = unet.conv_in.register_forward_hook(
        lambda _m, _i, out: out + (received[0] + received[1])
    )
    expected = unet(
        pair.image,
        300,
        encoder_hidden_states=context_of(),
        mid_block_additional_residual=sent.pop(0),
        down_block_additional_residuals=tuple(sent[i] for i in sorted(sent)),
    ).sample
    handle.remove()
    assert torch.equal(found.image, expected)


@pytest.mark.slow
@pytest.mark.parametrize("joint_branch", BRANCHES)
def test_the_frozen_unet_is_neither_listed_nor_saved_nor_copied(joint_branch):
    network = make_tiny(joint_branch=joint_branch)
    names = set(network.state_dict())
    assert names == {name for name, _ in network.named_parameters()}
    assert not any(name.startswith("rgb.") for name in names)
    of_joint = [name for name in names if name.startswith("joint.")]
    assert of_joint
    assert all(("lora_" in name) == (joint_branch == "lora") for name in of_joint)
    made = copy.deepcopy(network)
    shared = {id(each) for each in tiny_backbone().unet.parameters()}
    assert {id(each) for each in made.rgb.frozen_tensors()} == shared
    shift(made, seed=1)
    assert not equal(predict(made), predict(network))
    network.load_state_dict(made.state_dict())
    assert equal(predict(network), predict(made))


def test_passes_are_not_seen_by_hooks_on_the_backbone():
    network, seen = make_tiny(joint_branch="lora"), []
    handle = tiny_backbone().unet.conv_in.register_forward_hook(lambda *_: seen.append(1))
    predict(network)
    handle.remove()
    assert not seen


def test_low_rank_terms_and_links_learn_around_the_shared_unet():
    network = make_tiny(joint_branch="lora", lora_rank=2)
    backward(network)
    learning = [
        name
        for name, each in network.named_parameters()
        if each.grad is not None and each.grad.any()
    ]
    assert any("lora_B" in name for name in learning)
    assert all(each.grad is None for each in tiny_backbone().unet.parameters())
    assert isinstance(network.joint, TunedUnet)


@torch.no_grad()
def test_in_bfloat16_the_branches_are_nearly_those_of_float32():
    backbone = tiny_backbone()
    unet = copy.deepcopy(backbone.unet).to(torch.bfloat16)
    half = dataclasses.replace(backbone, unet=unet, dtype=torch.bfloat16)
    network = make_joint_network(half, (TASK,))
    found, exact = predict(network), predict(make_tiny())
    for left, right in ((found.image, exact.image), (found.maps[TASK], exact.maps[TASK])):
        assert left.dtype == torch.float32
        assert (left - right).square().mean().sqrt() < 0.05 * right.std()
    assert {each.dtype for each in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("tasks", [(), ("normals", "depth")])
def test_any_number_of_tasks_but_one_is_refused_with_a_remedy(tasks):
    with pytest.raises(ConfigError, match=r"wanted one.*choose one task, or mtdiffusion"):
        make_joint_network(tiny_backbone(), tasks)


def test_a_unet_for_inpainting_and_half_precision_are_refused():
    backbone = tiny_backbone()
    half = dataclasses.replace(backbone, dtype=torch.float16)
    with pytest.raises(ConfigError, match="bfloat16"):
        make_joint_network(half, (TASK,))
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        in_channels=9,
    )
    with pytest.raises(ConfigError, match=r"9 and 4.*not for inpainting"):
        make_joint_network(dataclasses.replace(backbone, unet=unet), (TASK,))


def test_a_noise_offset_widens_the_mean_of_a_channel_and_is_part_of_the_target():
    count, side, offset = 600, 4, 0.3
    zero = torch.zeros(count, 4, side, side)
    schedule = backbone_of("epsilon").schedule
    generators = [sample_generator(i) for i in range(count)]
    drawn = draw_noised(
        PairLatents(zero, {TASK: zero}), schedule, noise_offset=offset, generators=generators
    )
    for noise in (drawn.noise.image, drawn.noise.maps[TASK]):
        variance = noise.mean(dim=(2, 3)).var().item()
        # 2400 means: a standard error of 3 %.
        assert variance == pytest.approx(1 / side**2 + offset**2, rel=0.12)
        within = (noise - noise.mean(dim=(2, 3), keepdim=True)).square().mean().item()
        assert within == pytest.approx(1 - 1 / side**2, rel=0.05)
    expected = schedule.add_noise(zero, drawn.noise.image, drawn.timestep)
    assert torch.equal(drawn.noisy.image, expected)


def test_what_a_pair_draws_does_not_depend_on_its_batch():
    pair = random_pair(3)
    schedule = backbone_of().schedule
    together = draw_noised(pair, schedule, generators=[sample_generator(i) for i in range(3)])
    alone = draw_noised(
        on_each(lambda each: each[2:], pair), schedule, generators=[sample_generator(2)]
    )
    assert torch.equal(alone.timestep, together.timestep[2:])
    assert equal(alone.noisy, on_each(lambda each: each[2:], together.noisy))
    assert equal(alone.known.masks, on_each(lambda each: each[2:], together.known.masks))
    assert not torch.equal(together.noise.image, together.noise.maps[TASK])
    assert set(draw(8, masks=MaskShares(1, 0, 0, 0)).known.masks.image.unique().tolist()) == {1}
