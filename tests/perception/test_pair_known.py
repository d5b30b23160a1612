"""What a pair is made from, and the masks that say so."""

from __future__ import annotations

import pytest
import torch

from perception.pairs.known import (
    MaskShares,
    around_holes,
    draw_masks,
    image_known,
    maps_known,
    nothing_known,
    pair_known,
    to_latent_grid,
)
from perception.seeding import sample_generator
from perception.shapes import ShapeError
from schemas.errors import ConfigError
from tests.kit.models.pairs import TASK, random_pair

PAIR = random_pair()


def kinds(known):
    """Whether image and map are made, where that is one thing everywhere."""
    found = [known.masks.image.unique().tolist(), known.masks.maps[TASK].unique().tolist()]
    assert known.masks.image.shape == known.masks.maps[TASK].shape == (2, 1, 8, 8)
    return found


@pytest.mark.parametrize(
    ("known", "made"),
    [
        (nothing_known(PAIR.image, (TASK,)), [[1], [1]]),
        (image_known(PAIR.image, (TASK,)), [[0], [1]]),
        (maps_known(PAIR.maps), [[1], [0]]),
        (pair_known(PAIR), [[1], [1]]),
        (pair_known(PAIR, keeps_image=True), [[0], [1]]),
        (pair_known(PAIR, keeps_maps=True), [[1], [0]]),
    ],
)
def test_masks_say_what_is_made(known, made):
    assert kinds(known) == made
    assert known.latents.image.shape == known.latents.maps[TASK].shape == PAIR.image.shape


def test_what_is_known_is_kept_as_it_is():
    assert torch.equal(image_known(PAIR.image, (TASK,)).latents.image, PAIR.image)
    assert torch.equal(maps_known(PAIR.maps).latents.maps[TASK], PAIR.maps[TASK])
    assert pair_known(PAIR).latents is PAIR
    with pytest.raises(ShapeError, match="at least one, found none; use nothing_known"):
        maps_known({})


def test_a_hole_of_the_image_is_one_of_the_map_too_unless_it_has_its_own():
    image_mask, map_mask = torch.zeros(2, 2, 1, 32, 32)
    image_mask[..., :16, :], map_mask[..., 16:] = 1, 1
    same, apart = around_holes(PAIR, image_mask), around_holes(PAIR, image_mask, map_mask)
    assert torch.equal(same.masks.maps[TASK], same.masks.image)
    assert torch.equal(apart.masks.image, same.masks.image)
    assert apart.masks.image[0, 0].tolist() == [[1.0] * 8] * 4 + [[0.0] * 8] * 4
    assert apart.masks.maps[TASK][0, 0].tolist() == [[0.0] * 4 + [1.0] * 4] * 8


def test_a_stroke_thinner_than_a_latent_is_made_and_a_grey_is_cut_at_a_half():
    mask = torch.zeros(1, 1, 32, 32)
    mask[0, 0, 5, :] = 1
    mask[0, 0, 20, 3], mask[0, 0, 28, 3] = 0.5, 0.51
    found = to_latent_grid(mask, (8, 8))
    expected = torch.zeros(1, 1, 8, 8)
    expected[0, 0, 1], expected[0, 0, 7, 0] = 1, 1
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [(30, 32), (4, 32)])
def test_a_mask_of_another_size_is_refused_with_a_remedy(size):
    with pytest.raises(ShapeError, match=r"multiples of \(8, 8\).*size of the image"):
        to_latent_grid(torch.zeros(1, 1, *size), (8, 8))


def test_training_sees_each_kind_of_mask_as_often_as_its_share_says():
    count, generator = 4000, sample_generator(0)
    found = {"both": 0, "map": 0, "image": 0, "rectangles": 0, "shared": 0}
    for _ in range(count):
        image, of_map = draw_masks(MaskShares(), (6, 7), generator)
        assert image.shape == of_map.shape == (1, 6, 7)
        means = (image.mean().item(), of_map.mean().item())
        whole = {(1.0, 1.0): "both", (0.0, 1.0): "map", (1.0, 0.0): "image"}
        found[whole.get(means, "rectangles")] += 1
        found["shared"] += means[0] not in (0, 1) and torch.equal(image, of_map)
    # Four standard errors; a rectangle may by chance be the whole map.
    expected = {"both": 0.3, "map": 0.25, "image": 0.25, "rectangles": 0.2, "shared": 0.1}
    assert {name: each / count for name, each in found.items()} == pytest.approx(expected, abs=0.03)


def test_a_rectangle_is_one_block_of_a_quarter_of_each_side_or_more():
    generator, sides = sample_generator(1), set()
    for _ in range(200):
        mask, _ = draw_masks(MaskShares(0, 0, 0, 1), (8, 12), generator)
        rows, columns = mask[0].any(dim=1).sum().item(), mask[0].any(dim=0).sum().item()
        assert mask.sum() == rows * columns
        sides.add((rows, columns))
    assert {rows for rows, _ in sides} == set(range(2, 9))
    assert {columns for _, columns in sides} == set(range(3, 13))


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5, 0.5), (1.2, -0.2, 0, 0)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ConfigError, match="sum to 1"):
        MaskShares(*shares)
