"""Labels that a second opinion confirms."""

from __future__ import annotations

import math

import pytest
import torch

from perception.pairs.agreement import Limits, agreed_labels, agreeing_pixels
from schemas.errors import ConfigError
from schemas.sample import IGNORE_ID, IGNORE_PROBABILITY, TASKS

LIMITS = Limits()


def tilted(*degrees):
    """Normals [1, 3, 1, N], each at an angle to z."""
    radians = torch.tensor([math.radians(each) for each in degrees])
    return torch.stack([radians.sin(), torch.zeros_like(radians), radians.cos()])[None, :, None]


def values(*numbers):
    return torch.tensor(numbers).view(1, 1, 1, -1)


def test_normals_agree_up_to_the_angle_and_keep_the_first_value():
    ours, theirs = tilted(0, 0, 0, 50), tilted(10, 14.9, 15.1, 60)
    kept, share = agreed_labels("normals", ours, theirs, LIMITS)
    assert torch.equal(kept[..., [0, 1, 3]], ours[..., [0, 1, 3]])
    assert not kept[..., 2].any()
    assert share.tolist() == [0.75]


def test_depths_agree_up_to_the_ratio_whichever_is_greater():
    ours, theirs = values(4.0, 5.0, 4.0, 6.0), values(5.0, 4.0, 5.1, 4.0)
    kept, share = agreed_labels("depth", ours, theirs, LIMITS)
    assert kept.flatten().tolist() == [4, 5, 0, 0]
    assert share.tolist() == [0.5]


def test_classes_agree_if_they_are_equal():
    ours, theirs = torch.tensor([[[1, 2], [3, 3]]]), torch.tensor([[[1, 3], [3, 2]]])
    kept, share = agreed_labels("semseg", ours, theirs, LIMITS)
    assert kept.tolist() == [[[1, IGNORE_ID], [3, IGNORE_ID]]]
    assert kept.dtype == ours.dtype
    assert share.tolist() == [0.5]


def test_probabilities_agree_up_to_the_difference():
    ours, theirs = values(0.5, 0.5, 0.0), values(0.75, 0.2, 0.125)
    kept, share = agreed_labels("boundaries", ours, theirs, LIMITS)
    assert kept.flatten().tolist() == [0.5, IGNORE_PROBABILITY, 0]
    assert share.item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("task", "valid", "invalid"),
    [
        ("normals", tilted(0), torch.zeros(1, 3, 1, 1)),
        ("depth", values(2.0), values(0.0)),
        ("semseg", torch.tensor([[[1]]]), torch.tensor([[[IGNORE_ID]]])),
        ("saliency", values(0.1), values(IGNORE_PROBABILITY)),
    ],
)
def test_a_pixel_without_a_label_agrees_with_nothing(task, valid, invalid):
    widest = Limits(angle_deg=180, ratio=math.inf, probability=1)
    for pair in ((valid, invalid), (invalid, valid), (invalid, invalid)):
        kept, share = agreed_labels(task, *pair, widest)
        assert torch.equal(kept, invalid)
        assert share.tolist() == [0]
    kept, share = agreed_labels(task, valid, valid, Limits(angle_deg=0, ratio=1, probability=0))
    assert torch.equal(kept, valid)
    assert share.tolist() == [1]


@pytest.mark.parametrize("task", TASKS)
def test_agreement_is_mutual_and_grows_with_the_limits(task):
    generator = torch.Generator().manual_seed(0)
    if task in ("semseg", "human_parts"):
        ours, theirs = torch.randint(3, (2, 4, 8, 8), generator=generator)
    else:
        channels = 3 if task == "normals" else 1
        ours, theirs = torch.rand(2, 4, channels, 8, 8, generator=generator) + 0.01
    if task == "normals":
        ours, theirs = (each / each.norm(dim=1, keepdim=True) for each in (ours, theirs))
    tight, wide = (
        agreeing_pixels(task, ours, theirs, limits)
        for limits in (LIMITS, Limits(angle_deg=40, ratio=2, probability=0.5))
    )
    assert tight.shape == (4, 1, 8, 8)
    assert torch.equal(tight, agreeing_pixels(task, theirs, ours, LIMITS))
    assert not (tight & ~wide).any()
    share = agreed_labels(task, ours, theirs, LIMITS)[1]
    torch.testing.assert_close(share, tight.float().mean(dim=(1, 2, 3)))
    assert 0 < share.mean() < 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("angle_deg", -1), ("ratio", 0.9), ("probability", 1.5), ("ratio", math.nan)],
)
def test_limits_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"{name}.*{value}"):
        Limits(**{name: value})
