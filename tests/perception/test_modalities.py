"""Classes, vectors and masked images as modalities of a diffusion model."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from perception.pairs.modalities import (
    ClassContext,
    class_head,
    encode_by_unet,
    hide_patches,
    modality_loss,
    recorded_middle,
    vector_head,
    with_wider_input,
)
from perception.seeding import sample_generator
from tests.kit.tiny_models import tiny_backbone


def draw(seed, shape):
    return torch.randn(shape, generator=sample_generator(seed))


def test_uniform_logits_have_the_logarithm_of_the_number_of_classes_as_loss():
    ids = torch.tensor([0, 3, 6])
    assert float(modality_loss(torch.full((3, 7), 2.5), ids)) == pytest.approx(math.log(7))


def test_the_mean_of_vectors_has_their_variance_as_loss():
    vectors = draw(0, (100, 8))
    loss = modality_loss(vectors.mean().expand_as(vectors), vectors)
    assert float(loss) == pytest.approx(float(vectors.var(correction=0)))


def test_heads_read_the_middle_block_of_the_pass():
    backbone = tiny_backbone()
    with torch.no_grad(), recorded_middle(backbone.unet) as found:
        backbone.run_unet(draw(0, (2, 4, 8, 8)), 0, backbone.embed_text(["a", "b"]))
    (middle,) = found
    channels = backbone.block_out_channels[-1]
    assert middle.shape == (2, channels, 1, 1)
    assert class_head(channels, 5)(middle).shape == (2, 5)
    assert vector_head(channels)(middle).shape == (2, 1024)
    backbone.run_unet(draw(0, (2, 4, 8, 8)), 0, backbone.embed_text(["a", "b"]))
    assert len(found) == 1, "the hook is gone"
    published = sum(each.numel() for each in vector_head(1280).parameters())
    assert published == 1280 * 1024 + 1024 + 1024 * 1024 + 1024


def test_a_head_does_not_depend_on_where_something_is_seen():
    middle, head = draw(0, (2, 6, 4, 4)), class_head(6, 3)
    torch.testing.assert_close(head(middle), head(middle.flip(-1)))


def test_the_unet_encodes_a_modality_without_gradient_and_with_unit_deviation():
    backbone = tiny_backbone()
    unet = copy.deepcopy(backbone.unet).requires_grad_()
    classes = ClassContext(4, 16)

    def run(latents, timestep, context):
        assert not latents.any()
        assert timestep == 0
        return unet(latents, timestep, encoder_hidden_states=context).sample

    context = classes(torch.tensor([0, 3, classes.unknown_id]))
    assert context.shape == (3, 1, 16)
    found = encode_by_unet(run, context, (4, 8, 8))
    assert not found.requires_grad
    spread = found.std(dim=(1, 2, 3), correction=0)
    torch.testing.assert_close(spread, torch.ones(3))
    assert found.mean(dim=(1, 2, 3)).abs().max() < 1e-5
    assert not torch.equal(found[0], found[1])
    assert not encode_by_unet(lambda z, _t, _c: z, context, (4, 8, 8)).any()


def test_no_patch_hides_nothing_and_very_many_hide_all():
    images = draw(0, (3, 2, 16, 12)) + 5
    assert torch.equal(hide_patches(images, num_patches=0, side=4), images)
    generator = sample_generator(0)
    assert not hide_patches(images, num_patches=5000, side=4, generator=generator).any()
    one = hide_patches(images, num_patches=1, side=4, generator=generator)
    assert ((one == 0).sum(dim=(1, 2, 3)) == 2 * 16).all()
    for side in (0, 13):
        with pytest.raises(ValueError, match="between 1 and 12"):
            hide_patches(images, num_patches=1, side=side)


def test_patches_leave_each_pixel_as_often_as_computed():
    size, side, num_patches, count = 8, 3, 4, 20_000
    images = torch.ones(count, 1, size, size)
    kept = hide_patches(images, num_patches=num_patches, side=side, generator=sample_generator(0))
    corners = size - side + 1
    covering = torch.tensor(
        [sum(1 for corner in range(corners) if corner <= i < corner + side) for i in range(size)]
    )
    share = covering.double() / corners
    wanted = (1 - share[:, None] * share[None, :]) ** num_patches
    deviation = (wanted * (1 - wanted) / count).sqrt()
    assert ((kept.mean(dim=(0, 1)) - wanted).abs() < 4.5 * deviation + 1e-9).all()


def test_a_wider_input_starts_blind_to_the_masked_image_and_learns_to_see_it():
    backbone = tiny_backbone()
    unet = with_wider_input(backbone.unet).requires_grad_()
    noisy, masked = draw(0, (2, 4, 8, 8)), draw(1, (2, 4, 8, 8))
    context = backbone.embed_text(["a", "b"])
    found = unet(torch.cat([noisy, masked], dim=1), 300, encoder_hidden_states=context).sample
    torch.testing.assert_close(found.detach(), backbone.run_unet(noisy, 300, context))
    found.square().sum().backward()
    assert unet.conv_in.weight.grad[:, 4:].any()
    assert unet.config.in_channels == 8
    assert backbone.unet.config.in_channels == 4
    assert backbone.unet.conv_in.in_channels == 4
