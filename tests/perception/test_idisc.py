"""iDisc as host: shapes, both discretisations, gradients, prediction mode, and that it learns."""

from __future__ import annotations

import pytest
import torch

from perception.heads.deformable import DeformableAttention, DeformableEncoder
from perception.heads.internal_discretisation import (
    AdaptivePartition,
    fuse_depth,
    fuse_normals,
    partition_weights,
    read_weights,
)
from perception.heads.pixel_decoder import PixelDecoder
from perception.heads.positions import sine_positions
from perception.heads.stride_pyramid import StridePyramid, stride_plan
from perception.methods.idisc import make
from perception.methods.protocol import supervised_loss
from schemas.errors import ConfigError
from tests.kit.models.pyramids import (
    SD_LEVELS,
    SMALL_LEVELS,
    full_spec,
    make_labels,
    make_pyramid,
    make_spec,
)
from tests.kit.models.warm_up import short_warm_up

BOTH = ("normals", "depth")


def make_small(tasks=BOTH, *, seed=0, **options):
    torch.manual_seed(seed)
    return make(make_spec(tasks, width_ratio=0.1), **options)


def test_stable_diffusion_features_become_four_strides_of_the_published_width() -> None:
    with torch.device("meta"):
        adapter = StridePyramid(SD_LEVELS, stride_plan(8, width_ratio=1.0), use_spectral_norm=False)
        maps = adapter(make_pyramid(2, levels=SD_LEVELS, lowest_side=8, device="meta").maps)
    assert [tuple(each.shape) for each in maps] == [
        (2, 256, side, side) for side in (16, 32, 64, 128)
    ]
    assert [each.conv.in_channels for each in adapter.adapter.projections] == [
        7680,
        7040,
        4160,
        2560,
    ]


def test_starter_features_become_the_same_strides() -> None:
    adapter = StridePyramid(SMALL_LEVELS, stride_plan(4, width_ratio=0.1))
    maps = adapter(make_pyramid(2, lowest_side=2).maps)
    assert [tuple(each.shape) for each in maps] == [(2, 32, side, side) for side in (2, 4, 8, 16)]


def test_a_vae_factor_that_misses_a_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="found 2"):
        stride_plan(2, width_ratio=1.0)


@pytest.mark.slow
def test_the_full_size_host_has_the_published_shapes(monkeypatch) -> None:
    # A meta tensor has no singular value to start spectral norm from.
    monkeypatch.setattr("perception.adapter.spectral_norm", lambda layer, **_: layer)
    with torch.device("meta"):
        method = make(full_spec(BOTH))
        pyramid = make_pyramid(1, levels=SD_LEVELS, lowest_side=8, device="meta")
        outputs = method.forward_train(pyramid)
        found = method.predict(pyramid, (480, 640))
    assert tuple(outputs.normals.shape) == (1, 4, 128, 128)
    assert tuple(outputs.depth_m.shape) == (1, 1, 128, 128)
    assert tuple(found.labels["normals"].shape) == (1, 3, 480, 640)
    assert tuple(found.labels["depth"].shape) == (1, 1, 480, 640)
    assert len(method.decoder.encoder.layers) == 4
    attention = method.decoder.encoder.layers[0].attention
    assert attention.shape == (4, 4, 4)
    assert method.decoder.encoder.layers[0].feed_forward[1].out_features == 1024
    for head in method.heads.values():
        assert [tuple(each.latents.shape) for each in head.partitions] == [(32, 128)] * 3
        assert [len(each.attentions) for each in head.readers] == [2] * 3


def test_the_starter_host_is_a_plain_pyramid_of_scaled_widths() -> None:
    method = make(make_spec(BOTH))
    assert method.decoder.encoder is None
    assert method.adapter.width == 32
    assert tuple(method.heads["depth"].partitions[0].latents.shape) == (32, 32)


def test_another_task_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match="use method bae"):
        make_small(("normals", "semseg"))


def test_partition_weights_compete_over_latents_and_average_over_pixels() -> None:
    scores = torch.randn(2, 5, 30, dtype=torch.float64)
    weights = partition_weights(scores)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 5, dtype=torch.float64))
    shares = torch.exp(scores) / torch.exp(scores).sum(dim=1, keepdim=True) + 1e-6
    torch.testing.assert_close(weights, shares / shares.sum(dim=2, keepdim=True))
    # A score added to all latents at a pixel changes nothing: they compete for it.
    torch.testing.assert_close(partition_weights(scores + torch.randn(2, 1, 30)), weights)


def test_read_weights_of_a_pixel_sum_to_one_over_the_latents() -> None:
    weights = read_weights(torch.randn(2, 30, 5))
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 30))


def test_partition_of_permuted_latents_is_the_permuted_partition() -> None:
    torch.manual_seed(0)
    partition = AdaptivePartition(32, 16)
    raw = torch.randn(2, 32, 4, 6)
    order = torch.randperm(32)
    with torch.no_grad():
        expected = partition(raw)[:, order]
        partition.latents.copy_(partition.latents[order].clone())
        torch.testing.assert_close(partition(raw), expected, atol=1e-5, rtol=1e-5)


def test_latents_of_a_scene_depend_on_where_a_pixel_lies() -> None:
    torch.manual_seed(0)
    partition = AdaptivePartition(32, 16)
    raw = torch.randn(1, 32, 4, 6)
    assert not torch.allclose(partition(raw), partition(raw.flip(-1)), atol=1e-4)


def test_positions_are_unique_and_bounded() -> None:
    positions = sine_positions(torch.zeros(1, 32, 5, 7)).flatten(2)[0].T
    assert positions.abs().max() <= 1
    distances = torch.cdist(positions, positions) + torch.eye(35)
    assert distances.min() > 0.05


def test_fused_levels_are_means_after_the_activation() -> None:
    low, high = torch.full((1, 1, 2, 2), 0.0), torch.full((1, 1, 4, 4), 2.0)
    expected = torch.full((1, 1, 4, 4), (1 + torch.tensor(2.0).exp()) / 2)
    torch.testing.assert_close(fuse_depth([low, high]), expected)
    one = torch.tensor([3.0, 0.0, 0.0, 0.0])[None, :, None, None].expand(1, 4, 4, 4)
    two = torch.tensor([0.0, 0.5, 0.0, 1.0])[None, :, None, None].expand(1, 4, 4, 4)
    torch.testing.assert_close(
        fuse_normals([one, two])[0, :, 0, 0], torch.tensor([0.5, 0.5, 0.0, 1.51])
    )


def test_deformable_attention_reads_the_places_that_it_is_told() -> None:
    """With one head, one point and whole-pixel offsets it copies the neighbour's value."""
    torch.manual_seed(0)
    attention = DeformableAttention(4, 1, num_heads=1, num_points=1)
    with torch.no_grad():
        attention.offsets.bias.copy_(torch.tensor([1.0, 0.0]))
        for linear in (attention.values, attention.output):
            linear.weight.copy_(torch.eye(4))
            linear.bias.zero_()
    maps = torch.randn(2, 4, 3, 5)
    tokens = maps.flatten(2).transpose(1, 2)
    with torch.no_grad():
        found = attention(tokens, tokens, [(3, 5)]).transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(found[..., :-1], maps[..., 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[..., -1], torch.zeros(2, 4, 3), atol=1e-5, rtol=1e-5)


def test_deformable_encoder_keeps_shapes_and_sends_gradients_everywhere() -> None:
    torch.manual_seed(0)
    encoder = DeformableEncoder(16, 3, num_layers=2)
    maps = [torch.randn(2, 16, side, side + 1, requires_grad=True) for side in (2, 4, 8)]
    found = encoder(maps)
    assert [each.shape for each in found] == [each.shape for each in maps]
    found[-1].square().mean().backward()
    assert all(each.grad.abs().sum() > 0 for each in maps)
    # Positions steer the places alone, whose weights start at zero.
    silent = {name for name, each in encoder.named_parameters() if each.grad.abs().sum() == 0}
    assert silent == {"level_embedding"}


def test_the_deformable_decoder_drops_the_coarsest_level_too() -> None:
    decoder = PixelDecoder((8, 8, 8, 8), 16, num_deformable_layers=1)
    pixels = decoder([torch.randn(2, 8, side, side) for side in (2, 4, 8, 16)])
    for levels in (pixels.raw, pixels.joined):
        assert [tuple(each.shape) for each in levels] == [(2, 16, s, s) for s in (4, 8, 16)]


@pytest.mark.slow
def test_gradients_reach_every_parameter_of_a_deformable_decoder() -> None:
    method = make_small(num_deformable_layers=1).train()
    loss, _ = supervised_loss(method, make_pyramid(2), make_labels(2))
    loss.backward()
    missing = [name for name, each in method.named_parameters() if each.grad is None]
    assert missing == []
    assert all(each.grad.isfinite().all() for each in method.parameters())


def test_an_image_of_weight_zero_does_not_count() -> None:
    method = make_small().eval()
    pyramid, labels = make_pyramid(2), make_labels(2)
    outputs = method.forward_train(pyramid)
    height, width = labels["depth"].shape[-2:]
    first = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, height, width)
    weights = dict.fromkeys(labels, first)
    kept, _ = method.loss(outputs, labels, weights)
    changed = {task: torch.cat([label[:1], label[:1]]) for task, label in labels.items()}
    again, _ = method.loss(outputs, changed, weights)
    torch.testing.assert_close(kept, again)


def test_task_weights_scale_the_terms() -> None:
    method = make_small().eval()
    outputs, labels = method.forward_train(make_pyramid(2)), make_labels(2)
    _, terms = method.loss(outputs, labels)
    method.task_weights = {"depth": 0.5}
    loss, _ = method.loss(outputs, labels)
    assert float(loss.detach()) == pytest.approx(terms["normals"] + 0.5 * terms["depth"], rel=1e-5)


@pytest.mark.slow
def test_a_short_warm_up_on_rooms_beats_untrained_and_constant(tmp_path) -> None:
    scores = short_warm_up("configs/methods/idisc_rooms.yaml", tmp_path)
    for task, metric in (("normals", "mean_deg"), ("depth", "rmse_m")):
        found = {name: each[task][metric] for name, each in scores.items()}
        assert found["warm_up"] < 0.9 * min(found["untrained"], found["constant"])
