"""A canvas larger than the U-Net's, from windows."""

from __future__ import annotations

import pytest
import torch

from perception.pairs.known import nothing_known, pair_known
from perception.pairs.latents import on_each, rows
from perception.pairs.network import Known
from perception.pairs.sampler import sample_pairs, strength_timesteps
from perception.pairs.tiles import (
    ENLARGING,
    PANORAMA,
    TiledNetwork,
    Tiling,
    cover,
    pad_wrapped,
    ramp_weights,
    roll_columns,
    weighted_canvas,
    window_starts,
)
from perception.seeding import sample_generator
from schemas.errors import ConfigError
from tests.kit.models.pairs import (
    TASK,
    PointwiseNetwork,
    context_of,
    make_tiny,
    random_known,
    random_pair,
)

SMALL = Tiling(window=8, stride=4, ramp=2)
FLAT = Tiling(window=8, stride=4, ramp=2, wraps=False, shifts=False, whole_weight=0)
STEPS = strength_timesteps(PointwiseNetwork().schedule, num_steps=2)


def generators(count=2, first=0):
    return [sample_generator(first + i) for i in range(count)]


def tiled(network, tiling, count=2, *, timesteps=STEPS, first=0):
    return TiledNetwork(
        network,
        tiling,
        timesteps=timesteps,
        num_samples=count,
        generators=generators(count, first + 50),
    )


def sample(network, known, first=0, **choices):
    count = len(known.latents.image)
    return sample_pairs(
        network,
        known,
        context_of(count),
        timesteps=STEPS,
        generators=generators(count, first),
        **choices,
    )


def close(left, right, **tolerance):
    torch.testing.assert_close(left.image, right.image, **tolerance)
    torch.testing.assert_close(left.maps[TASK], right.maps[TASK], **tolerance)


def test_a_windows_weights_rise_from_a_sixteenth_to_one_and_are_symmetric():
    weights = ramp_weights(64, 8)
    assert weights[:8].tolist() == [(2 * j + 1) / 16 for j in range(8)]
    assert torch.equal(weights, weights.flip(0))
    assert (weights[8:-8] == 1).all()
    assert ramp_weights(16, 8).max() == 15 / 16


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize("width", [64, 65, 95, 96, 127, 200, 256])
def test_every_column_of_every_width_is_covered(width, wraps):
    starts = window_starts(width, window=64, stride=32, wraps=wraps)
    covered = torch.zeros(width)
    for start in starts:
        covered[torch.arange(start, start + 64) % width] += ramp_weights(64, 8)
    assert covered.min() > 0
    if not wraps:
        assert starts[-1] == width - 64, "the last window ends at the border"
        assert len(starts) == -((64 - width) // 32) + 1
    elif width % 32 == 0:
        assert len(starts) == width // 32


@pytest.mark.parametrize("tiling", [PANORAMA, ENLARGING], ids=["panorama", "enlarging"])
def test_ramps_lie_on_the_sides_that_several_windows_share(tiling):
    flat = cover((64, 256), tiling, with_whole=False)
    assert len(flat) == (8 if tiling.wraps else 7)
    assert torch.equal(flat[0].weights, ramp_weights(64, 8).expand(64, 64))
    tall = cover((96, 256), tiling, with_whole=False)
    assert len(tall) == 2 * len(flat)
    ramp = ramp_weights(64, 8)
    assert torch.equal(tall[0].weights, torch.minimum(ramp[:, None], ramp))


@pytest.mark.parametrize("tiling", [SMALL, FLAT], ids=["wrapped", "flat"])
def test_windows_of_a_pointwise_network_give_its_own_step(tiling):
    network, known = PointwiseNetwork(), random_known(size=(11, 23))
    close(sample(tiled(network, tiling), known), sample(network, known), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_one_window_of_the_whole_canvas_gives_the_plain_step():
    network, known = make_tiny(seed=1), random_known()
    expected = sample(network, known)
    tiling = Tiling(wraps=False, shifts=False)
    close(sample(tiled(network, tiling), known), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_windows_see_only_what_is_in_them_and_blend_where_they_overlap():
    network, pair = make_tiny(seed=1), random_pair(size=(8, 12))
    known = random_known(size=(8, 12))
    found = tiled(network, FLAT).denoise(pair, STEPS[0], context_of(), known).clean.image
    left, right = (
        network.denoise(
            on_each(lambda each, at=at: each[..., at : at + 8], pair),
            STEPS[0],
            context_of(),
            Known(
                on_each(lambda each, at=at: each[..., at : at + 8], known.latents),
                on_each(lambda each, at=at: each[..., at : at + 8], known.masks),
            ),
        ).clean.image
        for at in (0, 4)
    )
    torch.testing.assert_close(found[..., :4], left[..., :4])
    torch.testing.assert_close(found[..., 8:], right[..., 4:])
    # In column 4, weights are 1 of the left window and 1/4 of the right one.
    torch.testing.assert_close(found[..., 4], (left[..., 4] + right[..., 0] / 4) / 1.25)


@torch.no_grad()
def test_rolling_the_canvas_and_the_windows_rolls_the_output():
    network = make_tiny(seed=1)
    pair, known = random_pair(1, size=(8, 16)), random_known(1, size=(8, 16))
    step = STEPS[-1]

    def output(pair, known, offset):
        # Without the whole canvas: a U-Net that halves it does not move with it.
        net = tiled(network, Tiling(window=8, stride=4, ramp=2, whole_weight=0), 1)
        net._offsets[step] = torch.tensor([offset])
        return net.denoise(pair, step, context_of(1), known).clean

    def rolled(pair, by):
        return on_each(lambda each: each.roll(by, dims=-1), pair)

    plain = output(pair, known, 0)
    for by in (3, 4):
        moved = rolled(pair, by), Known(rolled(known.latents, by), rolled(known.masks, by))
        assert torch.equal(output(*moved, by).image, rolled(plain, by).image)
        fixed = output(*moved, 0)
        is_same = torch.allclose(fixed.image, rolled(plain, by).image, atol=1e-5)
        assert is_same == (by % 4 == 0), "windows that stay follow multiples of the stride alone"


def test_the_whole_canvas_weighs_five_in_the_first_two_fifths_of_the_steps():
    ones = {
        with_whole: [tile.weights for tile in cover((8, 16), SMALL, with_whole=with_whole)]
        for with_whole in (True, False)
    }
    assert ones[True][-1].unique().tolist() == [5]
    assert [each.shape for each in ones[True][:-1]] == [each.shape for each in ones[False]]
    for num_steps in (*range(1, 12), 50):
        steps = strength_timesteps(PointwiseNetwork().schedule, num_steps=num_steps)
        network = tiled(PointwiseNetwork(), SMALL, timesteps=steps)
        expected = [i for i in range(num_steps) if 10 * i < 4 * num_steps]
        assert network._with_whole == {steps[i] for i in expected}
    assert len(network._with_whole) == 20


def test_parts_are_averaged_by_their_weights():
    tiles = cover((8, 16), SMALL, with_whole=True)
    values = torch.arange(1.0, len(tiles) + 1)
    parts = [
        torch.full((1, 1, *tile.weights.shape), float(value))
        for tile, value in zip(tiles, values, strict=True)
    ]
    total, weights = torch.zeros(8, 16), torch.zeros(8, 16)
    for tile, value in zip(tiles, values, strict=True):
        for i, column in enumerate(tile.columns.tolist()):
            total[:, column] += value * tile.weights[:, i]
            weights[:, column] += tile.weights[:, i]
    found = weighted_canvas(tiles, parts, (8, 16))
    torch.testing.assert_close(found[0, 0], total / weights)


def test_offsets_are_each_samples_own_below_the_stride_and_new_at_each_step():
    steps = strength_timesteps(PointwiseNetwork().schedule, num_steps=50)
    drawn = torch.stack(
        list(tiled(PointwiseNetwork(), SMALL, 3, timesteps=steps)._offsets.values())
    )
    assert set(drawn.unique().tolist()) == {0, 1, 2, 3}
    assert not torch.equal(drawn[:, 0], drawn[:, 1])
    alone = tiled(PointwiseNetwork(), SMALL, 1, timesteps=steps, first=1)._offsets.values()
    assert torch.equal(torch.stack(list(alone))[:, 0], drawn[:, 1])


@torch.no_grad()
def test_a_tiled_sample_does_not_depend_on_its_batch_with_guidance_too():
    network, known = make_tiny(seed=1), random_known(3, size=(8, 16))
    empty = context_of(1, prompt="")
    together = sample(tiled(network, SMALL, 3), known, guidance_scale=2.0, empty_context=empty)
    one = Known(rows(known.latents, slice(1, 2)), rows(known.masks, slice(1, 2)))
    alone = sample(
        tiled(network, SMALL, 1, first=1), one, first=1, guidance_scale=2.0, empty_context=empty
    )
    close(alone, rows(together, slice(1, 2)), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_panorama_and_an_enlarged_pair_come_from_the_same_sampler():
    network = make_tiny(seed=1)
    wide = sample(tiled(network, SMALL, 1), nothing_known(torch.zeros(1, 4, 8, 32), network.tasks))
    assert wide.image.shape == wide.maps[TASK].shape == (1, 4, 8, 32)
    steps = strength_timesteps(network.schedule, num_steps=5, strength=0.2)
    pair = random_pair(1, size=(16, 16))
    larger = sample_pairs(
        tiled(network, FLAT, 1, timesteps=steps),
        pair_known(pair, keeps_maps=True),
        context_of(1),
        timesteps=steps,
        generators=generators(1),
    )
    assert torch.equal(larger.maps[TASK], pair.maps[TASK])
    assert not torch.allclose(larger.image, pair.image)


def test_columns_move_right_and_a_wrapped_canvas_continues_on_both_sides():
    canvas = torch.arange(10.0).expand(2, 1, 1, 10)
    moved = roll_columns(canvas, torch.tensor([3, 0]))
    assert torch.equal(moved[0], canvas[0].roll(3, dims=-1))
    assert torch.equal(moved[1], canvas[1])
    padded = pad_wrapped(canvas, 2)[0, 0, 0].tolist()
    assert padded == [8, 9, *range(10), 0, 1]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"stride": 80}, "stride.*80; wider steps leave gaps"),
        ({"ramp": 40}, "ramp.*found 40"),
        ({"wraps": False}, "shifts.*set shifts to false"),
    ],
)
def test_tiles_that_leave_gaps_are_refused(choices, message):
    with pytest.raises(ConfigError, match=message):
        Tiling(**choices)
