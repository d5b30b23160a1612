"""Labels of all tasks as one map."""

from __future__ import annotations

import pytest
import torch

from perception.heads.label_encoder import (
    CrossTaskLabelEncoder,
    ValueCode,
    class_rows,
    code_channels,
    mean_of_valid,
)
from tests.kit.models.multi_task import CHANNELS, SIX_TASKS
from tests.kit.models.pyramids import make_labels

GRID = (8, 6)
WIDTH = 16
IGNORED = {
    "normals": (0.0,),
    "depth": (0.0, -1.0),
    "semseg": (255, 254),
    "human_parts": (255, 100),
    "saliency": (-1.0, -0.5),
    "boundaries": (-1.0, -7.0),
}


def make(tasks=SIX_TASKS, *, scale: float = 0.01, **options) -> CrossTaskLabelEncoder:
    torch.manual_seed(0)
    channels = {task: CHANNELS[task] for task in tasks}
    return CrossTaskLabelEncoder(channels, WIDTH, scale=scale, **options)


@pytest.mark.parametrize(
    ("tasks", "jointly", "channels"),
    [
        (SIX_TASKS, True, 20),
        (("depth", "normals"), True, 16),
        (("saliency",), True, 4),
        (("semseg", "saliency"), True, 20),
        (SIX_TASKS, False, 24),
        (("depth", "saliency"), False, 8),
    ],
)
def test_saliency_adds_a_quarter_of_the_width(tasks, jointly: bool, channels: int) -> None:
    assert code_channels(tasks, WIDTH, encodes_jointly=jointly) == channels
    found = make(tasks, encodes_jointly=jointly)(make_labels(2), GRID)
    assert tuple(found.shape) == (2, channels, *GRID)


def test_a_width_that_four_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="found 10"):
        CrossTaskLabelEncoder({"depth": 1}, 10, scale=0.01)


@torch.no_grad()
def test_codes_stay_below_the_scale_and_follow_it() -> None:
    labels = make_labels(2)
    found, wide = make()(labels, GRID), make(scale=0.07)(labels, GRID)
    assert found.abs().max() < 0.01
    torch.testing.assert_close(wide, 7 * found)


@torch.no_grad()
def test_saliency_is_in_front_and_no_other_task_changes_it() -> None:
    encoder, labels = make(), make_labels(2)
    other = labels | {"depth": labels["depth"] + 1, "semseg": (labels["semseg"] + 1) % 5}
    found, changed = encoder(labels, GRID), encoder(other, GRID)
    assert torch.equal(found[:, :4], changed[:, :4])
    assert not torch.allclose(found[:, 4:], changed[:, 4:])
    opposite = encoder(labels | {"saliency": 1 - labels["saliency"]}, GRID)
    assert torch.equal(found[:, 4:], opposite[:, 4:])
    assert not torch.allclose(found[:, :4], opposite[:, :4])


@torch.no_grad()
def test_labels_of_the_map_s_size_are_coded_as_they_are() -> None:
    encoder = make()
    labels = {task: label[..., :8, :6] for task, label in make_labels(2, side=64).items()}
    codes = encoder.codes
    rows = codes["semseg"].table.weight[labels["semseg"]].movedim(3, 1)
    torch.testing.assert_close(codes["semseg"](labels["semseg"], GRID), rows)
    torch.testing.assert_close(
        codes["depth"](labels["depth"], GRID), codes["depth"].conv(labels["depth"])
    )


def test_class_ids_come_from_the_nearest_pixel_and_ignored_ones_have_a_row() -> None:
    ids = torch.tensor([[[0, 1, 2], [3, 255, 4], [0, 1, 9]]])
    rows = class_rows(ids, "semseg", 5, (3, 3))
    assert rows.tolist() == [[[0, 1, 2], [3, 5, 4], [0, 1, 5]]]
    assert class_rows(ids, "semseg", 5, (1, 1)).tolist() == [[[5]]]
    probability = torch.tensor([[[[0.0, 0.49, 0.5, 1.0, -1.0]]]])
    assert class_rows(probability, "saliency", 2, (1, 5)).tolist() == [[[0, 0, 1, 1, 2]]]


def test_values_are_means_of_valid_pixels() -> None:
    depth = torch.tensor([[[[2.0, 4.0], [0.0, 0.0]]]])
    value, share = mean_of_valid(depth, "depth", (1, 1))
    assert (value.item(), share.item()) == pytest.approx((3.0, 0.5))
    value, share = mean_of_valid(torch.zeros(1, 1, 2, 2), "depth", (1, 1))
    assert (value.item(), share.item()) == (0.0, 0.0)
    probability = torch.tensor([[[[0.0, 1.0], [-1.0, -1.0]]]])
    value, share = mean_of_valid(probability, "boundaries", (1, 1))
    assert (value.item(), share.item()) == pytest.approx((0.5, 0.5))


@torch.no_grad()
def test_a_half_valid_place_is_coded_as_the_mean_of_both_codes() -> None:
    torch.manual_seed(0)
    code = ValueCode("depth", 1, 4)
    found = code(torch.tensor([[[[2.0, 4.0], [0.0, 0.0]]]]), (1, 1)).flatten()
    valid = code.conv(torch.full((1, 1, 1, 1), 3.0)).flatten()
    torch.testing.assert_close(found, (code.ignored + valid) / 2)


@torch.no_grad()
@pytest.mark.parametrize("task", SIX_TASKS)
def test_what_ignored_pixels_hold_plays_no_part(task: str) -> None:
    encoder, labels = make(), make_labels(2)
    codes = []
    for value in IGNORED[task]:
        label = labels[task].clone()
        label[:, ..., :40, :] = value
        codes.append(encoder(labels | {task: label}, GRID))
    assert all(torch.equal(codes[0], each) for each in codes)
    assert not torch.allclose(codes[0], encoder(labels, GRID))


@torch.no_grad()
def test_an_image_without_labels_of_a_task_is_ignored_everywhere() -> None:
    encoder, labels = make(), make_labels(2)
    parts = encoder.codes["semseg"](torch.full_like(labels["semseg"], 255), GRID)
    assert torch.equal(
        parts, encoder.codes["semseg"].table.weight[-1].view(1, -1, 1, 1) + 0 * parts
    )
    depth = encoder.codes["depth"](torch.zeros_like(labels["depth"]), GRID)
    assert torch.equal(depth, encoder.codes["depth"].ignored.view(1, -1, 1, 1) + 0 * depth)


def test_every_part_learns_from_labels_with_ignored_pixels() -> None:
    encoder, labels = make(), make_labels(2)
    for task, values in IGNORED.items():
        labels[task] = labels[task].clone()
        labels[task][0] = values[0]
    encoder(labels, GRID).square().sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in encoder.parameters())
    assert encoder.codes["semseg"].table.weight.grad[-1].any()
