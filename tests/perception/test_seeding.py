"""Seeds, noise and shape checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception.seeding import draw_noise, sample_generator, sample_seed
from perception.shapes import ShapeError, expect_shape


def test_seeds_are_the_same_everywhere():
    # Written down once: a changed value would make old runs impossible to repeat.
    assert sample_seed("unit-0", "room_00001", 0) == 5988502817270856467
    assert 0 <= sample_seed("", "", 0) < 2**63


def test_every_part_of_the_identity_changes_the_seed():
    parts = [
        ("u", "k", 0),
        ("v", "k", 0),
        ("u", "l", 0),
        ("u", "k", 1),
        ("uk", "", 0),
        ("", "uk", 0),
    ]
    assert len({sample_seed(*each) for each in parts}) == len(parts)


def test_a_samples_noise_does_not_depend_on_its_neighbours():
    together = draw_noise((3, 4, 8, 8), generators=[sample_generator(s) for s in (1, 2, 3)])
    alone = draw_noise((1, 4, 8, 8), generators=[sample_generator(2)])
    assert torch.equal(together[1:2], alone)


def test_noise_of_one_generator_is_repeatable_and_global_noise_follows_torch():
    first, again = (draw_noise((2, 3), generators=sample_generator(7)) for _ in range(2))
    assert torch.equal(first, again)
    torch.manual_seed(5)
    expected = torch.randn(2, 3)
    torch.manual_seed(5)
    assert torch.equal(draw_noise((2, 3)), expected)


def test_one_generator_per_sample_is_required():
    with pytest.raises(ShapeError, match="each of 3 samples, found 2"):
        draw_noise((3, 4), generators=[sample_generator(0), sample_generator(1)])


def test_a_shape_pattern_binds_its_words():
    assert expect_shape(torch.zeros(2, 3, 4, 5), "B 3 H W", name="x") == {"B": 2, "H": 4, "W": 5}
    assert expect_shape(np.zeros((6, 6)), "N N", name="x") == {"N": 6}


@pytest.mark.parametrize("shape", [(2, 4, 4, 5), (2, 3, 4), (2, 3, 4, 5, 6), (3, 4, 5)])
def test_a_wrong_shape_is_reported_with_both_shapes(shape):
    with pytest.raises(ShapeError) as caught:
        expect_shape(torch.zeros(shape), "B 3 H W", name="images")
    assert str(caught.value) == f"images: wanted shape [B, 3, H, W], found {list(shape)}"


def test_a_repeated_word_means_the_same_size():
    with pytest.raises(ShapeError):
        expect_shape(np.zeros((6, 7)), "N N", name="x")
