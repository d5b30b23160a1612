"""InvPT: its attention, its decoder, and the whole host."""

from __future__ import annotations

import pytest
import torch

from perception.heads.invpt_attention import (
    AttentionMessage,
    CrossTaskAttention,
    flatten_tasks,
    resize_message,
    unflatten_tasks,
)
from perception.heads.invpt_decoder import InvPTDecoder, InvPTWidths, UpEmbed
from perception.heads.task_outputs import finish_outputs
from perception.losses.multi_task import multi_task_loss
from perception.methods.invpt import InvPT, make
from perception.vit import make_vit, prepare_images
from tests.kit.models.multi_task import (
    CHANNELS,
    NYUD_TASKS,
    PASCAL_TASKS,
    SIX_TASKS,
    all_labels,
    full_pyramid,
    image_pyramid,
    make_small_method_on_vit,
    num_parameters,
)
from tests.kit.models.pyramids import full_spec, make_spec


def make_small(tasks=SIX_TASKS, **options) -> InvPT:
    return make_small_method_on_vit("invpt", tasks, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "size"), [(PASCAL_TASKS, (512, 512)), (NYUD_TASKS, (448, 576))])
def test_full_size_shapes(tasks, size) -> None:
    with torch.device("meta"):
        host = make(
            full_spec(tasks, num_classes=40 if "depth" in tasks else 21), use_spectral_norm=False
        )
        taps = host.features(full_pyramid(size))
        final, preliminary = host.decoder(taps)
        outputs = finish_outputs(final, size)
    assert [tuple(tap.shape) for tap in taps] == [(1, 1024, size[0] // 16, size[1] // 16)] * 3
    for task in tasks:
        channels = host.decoder.heads[task].out_channels
        assert tuple(preliminary[task].shape) == (1, channels, size[0] // 32, size[1] // 32)
        assert tuple(final[task].shape) == (1, channels, size[0] // 4, size[1] // 4)
        assert tuple(outputs[task].shape) == (1, channels, *size)


def test_full_size_parameters_are_those_of_the_published_widths() -> None:
    with torch.device("meta"):
        decoder = InvPTDecoder(
            1024, InvPTWidths.scaled(1.0), {"semseg": 40, "depth": 1, "normals": 3}
        )
    tasks, outputs, widths = 3, (40, 1, 3), (576, 288, 144)
    wanted = 0
    for channels in outputs:
        wanted += 9 * 1024 * 1024 + 2 * 1024 + 9 * 1024 * 512 + 2 * 512
        wanted += (512 + 1) * channels + (512 + channels + 1) * 576 + (576 + 1) * channels
    wanted += (9 * 1024 + 1) * 288 + 9 * 1024 * 144 + 144
    for low, high in ((576, 288), (288, 144)):
        wanted += tasks * (9 * low * high + 2 * high + 9 * high * high + 2 * high)
    for stage, width in enumerate(widths):
        wanted += tasks * (9 * width + 2 * width) + 4 * (width + 1) * width
        wanted += 8 * width * width + 5 * width + 4 * width
        wanted += 2 * tasks * width
        if stage > 0:
            wanted += 4 * 2 + 2 + tasks * (width + 1) * 576
    wanted += tasks * (9 * 576 * 576 + 2 * 576)
    assert num_parameters(decoder) == wanted


def test_the_tasks_are_laid_out_as_one_sequence_and_back() -> None:
    features = torch.randn(2, 3, 4, 5, 6)
    tokens = flatten_tasks(features)
    assert torch.equal(tokens[1, 30 + 2 * 6 + 4], features[1, 1, :, 2, 4])
    assert torch.equal(unflatten_tasks(tokens, 3, (5, 6)), features)


def test_scores_are_resized_over_the_query_grid_of_each_task() -> None:
    scores = torch.randn(2, 2, 3 * 4, 5)
    same = resize_message(AttentionMessage(scores, (2, 2)), 3, (2, 2))
    assert torch.equal(same, scores)
    raised = resize_message(AttentionMessage(scores, (2, 2)), 3, (4, 4))
    by_hand = torch.nn.functional.interpolate(
        scores[1, 0, 4:8, 3].view(1, 1, 2, 2), size=(4, 4), mode="bilinear"
    )
    torch.testing.assert_close(raised[1, 0, 16:32, 3].view(1, 1, 4, 4), by_hand)


def make_attention(*, takes_message: bool = False, kv_stride: int = 2) -> CrossTaskAttention:
    torch.manual_seed(0)
    return CrossTaskAttention(8, 3, kv_stride=kv_stride, takes_message=takes_message).eval()


@torch.no_grad()
def test_attention_rows_sum_to_one() -> None:
    attention = make_attention()
    attention.value.weight.zero_()
    found, message = attention(torch.randn(2, 3, 8, 6, 4))
    wanted = attention.project(attention.value.bias)
    torch.testing.assert_close(found, wanted.view(1, 1, 8, 1, 1).expand_as(found))
    assert tuple(message.scores.shape) == (2, 2, 3 * 3 * 2, 3 * 3 * 2)
    assert message.grid == (3, 2)


@torch.no_grad()
def test_attention_is_softmax_of_products_over_the_square_root_of_the_whole_width() -> None:
    attention, features = make_attention(), torch.randn(1, 3, 8, 4, 4)
    found, message = attention(features)
    known = flatten_tasks(torch.nn.functional.avg_pool2d(features[0], 2).unsqueeze(0))
    asked = attention.query_grid(features.flatten(1, 2)).view(1, 3, 8, 2, 2)
    query, key, value = (
        layer(tokens)[0]
        for layer, tokens in (
            (attention.query, flatten_tasks(asked)),
            (attention.key, known),
            (attention.value, known),
        )
    )
    heads = []
    for half in (slice(0, 4), slice(4, 8)):
        scores = query[:, half] @ key[:, half].T / 8**0.5
        heads.append(scores.softmax(dim=1) @ value[:, half])
        torch.testing.assert_close(message.scores[0, len(heads) - 1], scores)
    answers = attention.project(torch.cat(heads, dim=1)).T.reshape(8, 3, 2, 2).movedim(1, 0)
    wanted = torch.nn.functional.interpolate(answers, size=(4, 4), mode="bilinear")
    torch.testing.assert_close(found[0], wanted)


@torch.no_grad()
def test_a_fusion_that_copies_the_message_hands_its_scores_on() -> None:
    attention = make_attention(takes_message=True, kv_stride=4)
    attention.fuse.weight.zero_()
    attention.fuse.bias.zero_()
    attention.fuse.weight[:, 2:, 0, 0] = torch.eye(2)
    before = AttentionMessage(torch.randn(1, 2, 3 * 4, 3 * 4), (2, 2))
    _, message = attention(torch.randn(1, 3, 8, 8, 8), before)
    assert torch.equal(message.scores, resize_message(before, 3, (4, 4)))


def test_tasks_do_not_mix_where_they_have_weights_of_their_own() -> None:
    torch.manual_seed(0)
    up = UpEmbed(8, 4, 3).eval()
    features, skip = torch.randn(1, 3, 8, 4, 4), torch.randn(1, 4, 8, 8)
    changed = features.clone()
    changed[:, 1] += 1
    same = (up(features, skip) == up(changed, skip)).flatten(2).all(dim=2)[0]
    assert same.tolist() == [True, False, True]


def test_every_task_learns_from_every_other_through_attention() -> None:
    host = make_small(("normals", "depth")).eval()
    taps = [torch.randn(1, host.encoder.width, 8, 8) for _ in range(3)]
    final, _ = host.decoder(taps)
    final["depth"].sum().backward()
    assert host.decoder.preliminary["normals"].features[0][0].weight.grad.any()


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (33, 96)])
def test_predictions_have_the_size_asked_for_whatever_the_images_size(size) -> None:
    host = make_small()
    found = host.predict(image_pyramid(2, size=size), (41, 57))
    for task, channels in CHANNELS.items():
        is_id = task in {"semseg", "human_parts"}
        assert tuple(found.labels[task].shape) == (
            (2, 41, 57) if is_id else (2, _label(channels), 41, 57)
        )
        assert tuple(found.reliability[task].shape) == (2, 1, 41, 57)
    assert (found.labels["depth"] > 0).all()
    outputs = host.forward_train(image_pyramid(2, size=size))
    assert all(tuple(value.shape[-2:]) == size for value in outputs.final.values())


def _label(channels: int) -> int:
    return 3 if channels == 3 else 1


def test_the_loss_is_that_of_both_predictions_with_the_same_weights() -> None:
    host = make_small(task_weights={"depth": 3.0}).eval()
    outputs, labels = host.forward_train(image_pyramid(2)), all_labels(2)
    total, terms = host.loss(outputs, labels)
    weights = {
        "normals": 10,
        "depth": 3,
        "semseg": 1,
        "human_parts": 2,
        "saliency": 5,
        "boundaries": 50,
    }
    _, coarse = multi_task_loss(outputs.preliminary, labels)
    wanted = sum(weights[task] * (terms[task] + coarse[task]) for task in SIX_TASKS)
    assert total.item() == pytest.approx(wanted, rel=1e-5)


def test_a_pretrained_encoders_features_start_unchanged(tmp_path) -> None:
    make_vit(None, width_ratio=0.1, vae_scale_factor=4).save_pretrained(tmp_path)
    host, pyramid = make_small(encoder=str(tmp_path)), image_pyramid(2)
    alone = host.encoder(prepare_images(pyramid.images, 8))
    together = host.features(pyramid)
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))
    random = make_small()
    alone = random.encoder(prepare_images(pyramid.images, 8))
    assert not any(torch.equal(*pair) for pair in zip(alone, random.features(pyramid), strict=True))


def test_maps_without_images_are_refused() -> None:
    pyramid = image_pyramid(1)
    with pytest.raises(ValueError, match="wanted the images"):
        make_small(("depth",)).forward_train(type(pyramid)(pyramid.maps))


def test_classes_without_their_number_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes above 1"):
        make(make_spec(("semseg",), num_classes=1))
