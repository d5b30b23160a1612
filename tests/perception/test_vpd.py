"""VPD as host: tokens, attention maps, gradients through the frozen U-Net, and that it learns."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from perception.diffusion.features import FeatureSettings, pyramid_channels
from perception.diffusion.latents import encode_moments
from perception.diffusion.tuning import tuned_copy
from perception.heads.semantic_fpn import FeaturePyramidNeck, SemanticFpnHead
from perception.heads.vpd_depth import VpdDepthHead
from perception.losses.depth import vpd_silog_loss
from perception.methods.protocol import supervised_loss
from perception.methods.spec import MethodSpec
from perception.methods.vpd import TokenRefiner, make, segmentation_channels
from schemas.config_method import MethodSection
from schemas.errors import ConfigError
from tests.kit.models.pyramids import SD_LEVELS, full_spec, make_pyramid
from tests.kit.models.warm_up import short_warm_up
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone

BOTH = ("semseg", "depth")
NUM_CLASSES = 5
VPD_SETTINGS = FeatureSettings(timestep=1, posterior="mode", scale_latents=False, add_noise=False)


def make_spec(tasks=BOTH, *, num_classes=NUM_CLASSES, **changes) -> MethodSpec:
    backbone = tiny_backbone()
    embeddings = torch.randn(NUM_CLASSES, 16, generator=torch.Generator().manual_seed(5))
    choices = MethodSection(tasks=tasks, num_classes=num_classes, feature_convention="vpd")
    spec = MethodSpec(
        choices=choices,
        block_out_channels=backbone.block_out_channels,
        level_channels=pyramid_channels(backbone.unet.config),
        vae_scale_factor=backbone.downsample_factor,
        context_width=16,
        class_embeddings=embeddings,
    )
    return replace(spec, **changes)


def make_small(tasks=BOTH, *, seed=0, **changes):
    torch.manual_seed(seed)
    return make(make_spec(tasks, **changes))


def make_images(batch=2, side=IMAGE_SIZE_PX):
    return 2 * torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1)) - 1


def make_targets(batch=2, side=IMAGE_SIZE_PX):
    generator = torch.Generator().manual_seed(2)
    return {
        "semseg": torch.randint(0, NUM_CLASSES, (batch, 1, side), generator=generator).expand(
            -1, side, -1
        ),
        "depth": 1
        + 3 * torch.rand(batch, 1, 1, side, generator=generator).expand(-1, -1, side, -1),
    }


def test_stable_diffusion_has_the_published_channels() -> None:
    up_channels = [level[-1] for level in SD_LEVELS]
    assert up_channels == [1280, 1280, 640, 320]
    assert segmentation_channels(up_channels, 150) == (1280, 1430, 790, 320)


def test_the_published_channels_are_those_of_the_unet() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    assert pyramid_channels(unet.config) == SD_LEVELS


def test_the_full_size_heads_have_the_published_shapes() -> None:
    sides = (8, 16, 32, 64)
    with torch.device("meta"):
        method = make(
            full_spec(
                BOTH,
                num_classes=150,
                context_width=768,
                class_embeddings=torch.empty(150, 768),
            )
        )
        levels = [
            tuple(torch.empty(2, c, side, side) for c in channels)
            for channels, side in zip(
                ((1280, 1280), (1280, 150, 1280), (640, 150, 640), (320, 320)), sides, strict=True
            )
        ]
        outputs = method.forward_train(type(make_pyramid(1))(tuple(levels)))
    assert tuple(outputs.semseg.shape) == (2, 150, 64, 64)
    assert tuple(outputs.depth_m.shape) == (2, 1, 512, 512)
    neck, head = method.heads["semseg"]
    assert [each.in_channels for each in neck.laterals] == [1280, 1430, 790, 320]
    assert {each.out_channels for each in neck.outputs} == {256}
    assert [len(chain.smooths) for chain in head.chains] == [3, 2, 1, 1]
    assert method.heads["depth"].fusion.project[0].in_channels == 3520
    assert method.heads["depth"].fusion.project[0].out_channels == 1536
    assert method.heads["depth"].depth.in_channels == 192
    assert tuple(method.refiners["semseg"].gamma.shape) == (768,)


def test_a_pyramid_holds_up_path_attention_and_the_pass_of_depth() -> None:
    pyramid = make_small().observe(tiny_backbone(), make_images())
    assert pyramid.channels == ((32, 32), (24, 5, 24), (16, 5, 16), (8, 8))
    assert pyramid.sizes == ((1, 1), (2, 2), (4, 4), (8, 8))
    for level in (1, 2):
        attention = pyramid.maps[level][1]
        torch.testing.assert_close(attention.sum(dim=1), torch.ones(2, *attention.shape[-2:]))


def test_tasks_read_the_maps_of_their_own_pass() -> None:
    """A method of both tasks sees what two methods of one task see."""
    images, backbone = make_images(), tiny_backbone()
    both, semseg, depth = make_small(), make_small(("semseg",)), make_small(("depth",))
    for single, task in ((semseg, "semseg"), (depth, "depth")):
        single.refiners[task].load_state_dict(both.refiners[task].state_dict())
        single.heads[task].load_state_dict(both.heads[task].state_dict())
    with torch.no_grad():
        pyramids = [method.observe(backbone, images) for method in (both, semseg, depth)]
    size = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    found = both.predict(pyramids[0], size)
    torch.testing.assert_close(
        found.reliability["semseg"], semseg.predict(pyramids[1], size).reliability["semseg"]
    )
    torch.testing.assert_close(
        found.labels["depth"], depth.predict(pyramids[2], size).labels["depth"]
    )


def test_tokens_start_nearly_unchanged_and_learn() -> None:
    torch.manual_seed(0)
    refiner = TokenRefiner(16)
    tokens = torch.randn(5, 16)
    assert (refiner(tokens) - tokens).abs().max() < 1e-3
    assert not torch.equal(refiner(tokens), tokens)
    expected = tokens + 1e-4 * refiner.network(tokens)
    torch.testing.assert_close(refiner(tokens), expected)


def test_gradients_reach_tokens_and_heads_but_not_the_backbone() -> None:
    backbone = tiny_backbone()
    method = make_small().train()
    loss, terms = supervised_loss(method, method.observe(backbone, make_images()), make_targets())
    loss.backward()
    assert set(terms) == set(BOTH)
    for task in BOTH:
        assert method.refiners[task].gamma.grad.abs().sum() > 0
        assert all(each.grad.abs().sum() > 0 for each in method.refiners[task].parameters())
    assert [name for name, each in method.named_parameters() if each.grad is None] == []
    for part in (backbone.unet, backbone.vae):
        assert all(each.grad is None for each in part.parameters())


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_tuned_unet_learns_with_the_tokens(tuning) -> None:
    backbone, method = tiny_backbone(), make_small(("semseg",))
    method.learn_unet(tuned_copy(backbone, tuning=tuning))
    method.train()
    loss, _ = supervised_loss(method, method.observe(backbone, make_images()), make_targets())
    loss.backward()
    assert method.refiners["semseg"].gamma.grad.abs().sum() > 0
    assert sum(float(each.grad.abs().sum()) for each in method.tuned_unet.parameters()) > 0
    assert all(each.grad is None for each in backbone.unet.parameters())


def test_features_follow_the_weights() -> None:
    method = make_small(("semseg",))
    assert not method.shares_features
    with torch.no_grad():
        before = method.observe(tiny_backbone(), make_images()).maps[0][0].clone()
        method.refiners["semseg"].gamma.fill_(1.0)
        after = method.observe(tiny_backbone(), make_images()).maps[0][0]
    assert not torch.allclose(before, after)


def test_the_vpd_convention_draws_nothing_at_random() -> None:
    method = make_small()
    assert method.feature_settings == VPD_SETTINGS
    with torch.no_grad():
        one, two = (method.observe(tiny_backbone(), make_images()) for _ in range(2))
        method.feature_settings = FeatureSettings()
        three = method.observe(
            tiny_backbone(), make_images(), generators=torch.Generator().manual_seed(0)
        )
        four = method.observe(
            tiny_backbone(), make_images(), generators=torch.Generator().manual_seed(1)
        )
    assert torch.equal(one.maps[3][0], two.maps[3][0])
    assert not torch.equal(one.maps[3][0], three.maps[3][0])
    assert not torch.equal(three.maps[3][0], four.maps[3][0])


def test_moments_encoded_before_give_the_same_features() -> None:
    backbone, method = tiny_backbone(), make_small()
    with torch.no_grad():
        one = method.observe(backbone, make_images())
        two = method.observe(
            backbone, make_images(), moments=encode_moments(backbone, make_images())
        )
    assert torch.equal(one.maps[2][0], two.maps[2][0])
    assert torch.equal(one.images, make_images())


@pytest.mark.parametrize("changes", [{"class_embeddings": None}, {"num_classes": 7}])
def test_classes_without_names_are_refused_with_a_remedy(changes) -> None:
    with pytest.raises(ConfigError, match="reads one name for each"):
        make_small(**changes)


def test_depth_needs_no_names() -> None:
    assert make_small(("depth",), class_embeddings=None).tasks == ("depth",)


def test_another_task_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match="use another method"):
        make_small(("normals",))


def test_depth_stays_below_the_largest() -> None:
    torch.manual_seed(0)
    head = VpdDepthHead((32, 24, 16, 8), width_ratio=0.1, max_depth_m=80.0)
    maps = [1e3 * torch.randn(2, c, s, s) for c, s in ((32, 1), (24, 2), (16, 4), (8, 8))]
    found = head(maps, (32, 32))
    assert found.min() > 0
    assert found.max() <= 80
    method = make(make_spec(("depth",)), max_depth_m=80.0)
    assert method.heads["depth"].max_depth_m == 80


def test_sides_that_do_not_halve_evenly_fit_together() -> None:
    torch.manual_seed(0)
    channels, sizes = (8, 6, 5, 4), ((2, 2), (3, 3), (6, 5), (11, 9))
    maps = [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
    levels = FeaturePyramidNeck(channels, 16)(maps)
    assert tuple(SemanticFpnHead(4, 16, 3)(levels).shape) == (2, 3, 11, 9)
    head = VpdDepthHead((8, 8, 8, 8), width_ratio=0.1, max_depth_m=10.0)
    maps = [torch.randn(2, 8, *size) for size in sizes]
    assert tuple(head(maps, (44, 36)).shape) == (2, 1, 44, 36)


def test_depth_loss_is_the_root_of_the_published_form() -> None:
    generator = torch.Generator().manual_seed(0)
    found = 1 + torch.rand(2, 1, 4, 4, generator=generator)
    wanted = 1 + torch.rand(2, 1, 4, 4, generator=generator)
    wanted[:, :, 0] = 0
    ratio = (found[:, :, 1:].log() - wanted[:, :, 1:].log()).double()
    expected = ((ratio**2).mean() - 0.5 * ratio.mean() ** 2).sqrt()
    assert float(vpd_silog_loss(found, wanted)) == pytest.approx(float(expected), abs=1.1e-3)
    # A factor on all depths costs √0.5 of its logarithm.
    scaled = vpd_silog_loss(2 * wanted.clamp_min(0.1), wanted)
    assert float(scaled) == pytest.approx(0.5**0.5 * 0.6931, abs=1.1e-3)


def test_depth_without_a_valid_pixel_costs_nothing() -> None:
    found = torch.ones(2, 1, 4, 4, requires_grad=True)
    loss = vpd_silog_loss(found, torch.zeros(2, 1, 4, 4))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert float(found.grad.abs().sum()) == 0


def test_a_copy_has_weights_and_features_of_its_own() -> None:
    method = make_small(("semseg",))
    twin = copy.deepcopy(method)
    with torch.no_grad():
        twin.refiners["semseg"].gamma.fill_(1.0)
    assert float(method.refiners["semseg"].gamma.detach().max()) == pytest.approx(1e-4)
    assert "class_embeddings" in method.state_dict()


@pytest.mark.slow
def test_a_short_warm_up_on_rooms_beats_untrained_and_constant(tmp_path) -> None:
    """Both tasks in one model."""
    scores = short_warm_up(
        "configs/methods/vpd_rooms.yaml", tmp_path, "method.tasks=[semseg, depth]"
    )
    miou = {name: each["semseg"]["miou"] for name, each in scores.items()}
    assert miou["warm_up"] > 1.5 * max(miou["untrained"], miou["constant"])
    rmse_m = {name: each["depth"]["rmse_m"] for name, each in scores.items()}
    assert rmse_m["warm_up"] < 0.95 * min(rmse_m["untrained"], rmse_m["constant"])
