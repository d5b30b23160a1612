"""Zoom, crop and colours: geometry in closed form, ignore values, seeds, and the mixture."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from schemas.config_training import AugmentationSection
from schemas.sample import INVALID_VALUES, TASK_KINDS, TASKS, Sample
from sources.augment import Window, augment_sample, distort_colours, draw_window, see_window
from sources.batches import hflip_sample
from sources.live_shards import LiveShardList
from sources.mixture import Mixture
from sources.streams import RealStream, SyntheticStream
from storage.files.stores import open_store
from tests.kit.committed_units import commit, image_unit
from tests.kit.memory_source import MemorySource

SIDE = 32
EVERYTHING = AugmentationSection(zoom_min=0.5, zoom_max=2.0, photometric=True, cat_max_ratio=0.75)


def random_sample(seed: int = 0, *, size: tuple[int, int] = (24, SIDE)) -> Sample:
    """All tasks, each with about a fifth of its pixels invalid."""
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(*size, 3)).astype(np.float32)
    labels = {
        "normals": normals / np.linalg.norm(normals, axis=-1, keepdims=True),
        "depth": rng.uniform(0.5, 9, size).astype(np.float32),
        "semseg": rng.integers(0, 20, size).astype(np.uint8),
        "human_parts": rng.integers(0, 7, size).astype(np.uint8),
        "saliency": rng.uniform(0, 1, size).astype(np.float32),
        "boundaries": rng.uniform(0, 1, size).astype(np.float32),
    }
    for task, label in labels.items():
        label[rng.random(size) < 0.2] = INVALID_VALUES[TASK_KINDS[task]]
    return Sample(
        key=f"s{seed}",
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        labels=labels,
        reliability={task: rng.uniform(0.1, 1, size).astype(np.float32) for task in TASKS},
    )


def is_invalid(label: np.ndarray, task: str) -> np.ndarray:
    found = label == INVALID_VALUES[TASK_KINDS[task]]
    return found.all(axis=-1) if found.ndim == 3 else found


def assert_same(first: Sample, second: Sample) -> None:
    np.testing.assert_array_equal(first.image, second.image)
    for task in TASKS:
        np.testing.assert_array_equal(first.labels[task], second.labels[task])
        np.testing.assert_array_equal(first.reliability[task], second.reliability[task])


def test_settings_that_do_nothing_give_the_sample_itself():
    sample = random_sample()
    assert augment_sample(sample, AugmentationSection(), seed="0") is sample


def test_the_whole_image_at_zoom_one_is_unchanged():
    sample = random_sample()
    assert_same(see_window(sample, Window(zoom=1.0, top_px=0.0, left_px=0.0)), sample)


def test_equal_seeds_give_equal_samples_and_other_seeds_others():
    sample, before = random_sample(), random_sample()
    first, second, other = (augment_sample(sample, EVERYTHING, seed=s) for s in ("a", "a", "b"))
    assert_same(first, second)
    assert (first.image != other.image).any()
    assert_same(sample, before)


@pytest.mark.parametrize("seed", range(8))
def test_shapes_types_and_ranges_survive_everything(seed):
    sample = random_sample(seed)
    found = augment_sample(sample, EVERYTHING, seed=str(seed))
    assert (found.image.shape, found.image.dtype) == (sample.image.shape, np.uint8)
    for task in TASKS:
        for before, after in (
            (sample.labels[task], found.labels[task]),
            (sample.reliability[task], found.reliability[task]),
        ):
            assert (after.shape, after.dtype) == (before.shape, before.dtype)
    length = np.linalg.norm(found.labels["normals"], axis=-1)
    assert np.all((length == 0) | (np.abs(length - 1) < 1e-5))
    for task in ("saliency", "boundaries"):
        label = found.labels[task]
        assert np.all((label == -1) | ((label >= 0) & (label <= 1)))


@pytest.mark.parametrize("zoom", [0.5, 0.8, 1.3, 2.0])
def test_values_come_unmixed_from_the_pixels_and_ignored_ones_stay_ignored(zoom):
    sample = random_sample()
    height, width = sample.image.shape[:2]
    top, left = (side * (zoom - 1) / 2 for side in (height, width))
    found = see_window(sample, Window(zoom=zoom, top_px=top, left_px=left))
    for task in TASKS:
        for row in range(height):
            for column in range(0, width, 5):
                y, x = ((row + 0.5 + top) / zoom, (column + 0.5 + left) / zoom)
                after = found.labels[task][row, column]
                if 0 <= y < height and 0 <= x < width:
                    before = sample.labels[task][int(y), int(x)]
                    factor = zoom if task == "depth" else 1.0
                    np.testing.assert_allclose(after * factor, before, rtol=1e-6)
                else:
                    np.testing.assert_array_equal(after, INVALID_VALUES[TASK_KINDS[task]])


def test_padding_is_invalid_in_every_label_grey_in_the_image_and_unsure():
    found = see_window(random_sample(), Window(zoom=0.5, top_px=-6.0, left_px=-8.0))
    is_padding = np.ones((24, SIDE), bool)
    is_padding[6:18, 8:24] = False
    for task in TASKS:
        assert is_invalid(found.labels[task], task)[is_padding].all()
        assert not is_invalid(found.labels[task], task)[~is_padding].all()
        worst = 180.0 if task == "normals" else 0.0
        assert (found.reliability[task][is_padding] == worst).all()
        assert (found.reliability[task][~is_padding] != worst).all()
    assert (found.image[is_padding] == 128).all()
    assert found.image[~is_padding].std() > 10


@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.7])
def test_a_zoomed_plane_is_a_plane_that_the_same_camera_sees_that_size(zoom):
    """In a pinhole camera the inverse depth of a plane is linear in the pixel: 1/d = a + b·u.

    Zoom around the principal point maps u to z·u and d to d/z, so that a becomes z·a and b stays.
    """
    side, a, b_row, b_column = 64, 0.4, 0.002, -0.003
    centred = np.arange(side) + 0.5 - side / 2
    inverse = a + b_row * centred[:, None] + b_column * centred[None, :]
    depth = (1 / inverse).astype(np.float32)
    sample = Sample(key="p", image=np.zeros((side, side, 3), np.uint8), labels={"depth": depth})
    start = side * (zoom - 1) / 2
    seen = see_window(sample, Window(zoom=zoom, top_px=start, left_px=start)).labels["depth"]
    wanted = zoom * a + b_row * centred[:, None] + b_column * centred[None, :]
    inside = seen > 0
    rows, columns = np.nonzero(inside)
    # A label is taken up to half a pixel of the source beside the centre.
    tolerance = 0.5 * zoom * (abs(b_row) + abs(b_column)) + 1e-6
    assert np.abs(1 / seen[rows, columns] - wanted[rows, columns]).max() <= tolerance
    assert inside.mean() == pytest.approx(min(1.0, zoom) ** 2, abs=0.05)


def test_a_thing_in_front_appears_as_large_as_its_depth_says():
    side, width_m, depth_m, focal_px = 64, 0.5, 4.0, 96.0
    half_px = focal_px * width_m / depth_m / 2
    centred = np.abs(np.arange(side) + 0.5 - side / 2)
    is_thing = (centred[:, None] < half_px) & (centred[None, :] < half_px)
    sample = Sample(
        key="t",
        image=np.zeros((side, side, 3), np.uint8),
        labels={
            "semseg": is_thing.astype(np.uint8),
            "depth": np.full((side, side), depth_m, np.float32),
        },
    )
    seen = see_window(sample, Window(zoom=2.0, top_px=side / 2, left_px=side / 2)).labels
    is_seen = seen["semseg"] == 1
    width_px = is_seen.any(axis=0).sum()
    assert width_px * seen["depth"][is_seen].mean() / focal_px == pytest.approx(width_m)


def test_image_and_labels_move_together():
    side = 64
    ids = (np.add.outer(np.arange(side) // 8, np.arange(side) // 8) % 2).astype(np.uint8)
    image = np.repeat((ids * 200)[..., None], 3, axis=-1)
    sample = Sample(key="c", image=image, labels={"semseg": ids})
    for zoom, start in ((1.5, 11.3), (0.75, -8.0), (2.0, 30.0)):
        seen = see_window(sample, Window(zoom=zoom, top_px=start, left_px=start))
        known = seen.labels["semseg"] != 255
        agrees = (seen.image[..., 0] > 100) == (seen.labels["semseg"] == 1)
        assert agrees[known].mean() > 0.97


@pytest.mark.parametrize("zoom", [0.71, 1.63])
def test_mirror_then_zoom_is_zoom_then_mirror(zoom):
    sample = random_sample()
    height, width = sample.image.shape[:2]
    window = Window(zoom=zoom, top_px=height * (zoom - 1) / 2, left_px=width * (zoom - 1) / 2)
    first = hflip_sample(see_window(sample, window))
    second = see_window(hflip_sample(sample), window)
    for task in TASKS:
        np.testing.assert_array_equal(first.labels[task], second.labels[task])
    assert np.abs(first.image.astype(int) - second.image).max() <= 1


def test_mirroring_twice_is_the_identity_for_every_task():
    sample = random_sample()
    assert_same(hflip_sample(hflip_sample(sample)), sample)
    mirrored = hflip_sample(sample)
    for task in TASKS:
        np.testing.assert_array_equal(
            is_invalid(mirrored.labels[task], task)[:, ::-1],
            is_invalid(sample.labels[task], task),
        )


def test_colours_change_the_image_alone():
    sample = random_sample()
    found = augment_sample(sample, AugmentationSection(photometric=True), seed="1")
    assert (found.image != sample.image).any()
    assert found.labels is sample.labels
    assert found.reliability is sample.reliability


def test_every_colour_change_stays_within_its_range():
    grey = np.full((4, 4, 3), 100, np.uint8)
    found = [distort_colours(grey, random.Random(seed)) for seed in range(200)]
    assert all((image == image[0, 0, 0]).all() for image in found)  # grey has no hue to shift
    values = {int(image[0, 0, 0]) for image in found}
    assert min(values) >= round((100 - 32) * 0.5)
    assert max(values) <= round((100 + 32) * 1.5)
    assert len(values) > 20
    assert sum(int(image[0, 0, 0]) == 100 for image in found) > 20


def test_hue_moves_a_pure_colour_by_at_most_36_degrees():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    seen = [distort_colours(red, random.Random(seed))[0, 0] for seed in range(100)]
    assert all(colour[0] == colour.max() for colour in seen)
    assert any(colour[1] > 20 for colour in seen)
    assert any(colour[2] > 20 for colour in seen)


def test_crops_of_one_class_are_drawn_again():
    ids = np.zeros((SIDE, SIDE), np.uint8)
    ids[20:, 20:] = 1
    sample = Sample(key="k", image=np.zeros((SIDE, SIDE, 3), np.uint8), labels={"semseg": ids})

    def share_of_plain_crops(ratio: float) -> float:
        settings = AugmentationSection(zoom_min=2.0, zoom_max=2.0, cat_max_ratio=ratio)
        windows = [draw_window(sample, settings, random.Random(seed)) for seed in range(100)]
        seen = [see_window(sample, window).labels["semseg"] for window in windows]
        return float(np.mean([(each == 0).mean() >= 0.95 for each in seen]))

    assert share_of_plain_crops(1.0) > 0.4
    assert share_of_plain_crops(0.95) < 0.05


def test_a_crop_without_any_class_ends_the_search():
    ids = np.full((SIDE, SIDE), 255, np.uint8)
    sample = Sample(key="k", image=np.zeros((SIDE, SIDE, 3), np.uint8), labels={"semseg": ids})
    settings = AugmentationSection(zoom_min=2.0, zoom_max=2.0, cat_max_ratio=0.75)
    assert draw_window(sample, settings, random.Random(0)).zoom == 2.0


def test_crops_lie_inside_and_padding_around_the_middle():
    sample = random_sample()
    for seed in range(50):
        window = draw_window(sample, EVERYTHING, random.Random(seed))
        for start, side in ((window.top_px, 24), (window.left_px, SIDE)):
            excess = side * (window.zoom - 1)
            if excess > 0:
                assert 0 <= start <= excess
            else:
                assert start == excess / 2


def test_zooms_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match="raise zoom_max"):
        AugmentationSection(zoom_min=2.0, zoom_max=1.0)


def mixture(augmentation=None, *, hflip: bool = True) -> Mixture:
    return Mixture(
        RealStream(MemorySource(10), seed=0),
        real_fraction=1.0,
        batch_size=6,
        tasks=("normals", "depth"),
        hflip=hflip,
        augmentation=augmentation,
        seed=3,
    )


def test_a_mixture_without_augmentation_is_bit_for_bit_what_it_was():
    for plain, off in islice(zip(mixture(), mixture(AugmentationSection()), strict=False), 5):
        assert torch.equal(plain.images, off.images)
        assert all(torch.equal(plain.labels[task], off.labels[task]) for task in plain.labels)


def test_a_resumed_mixture_repeats_its_augmentations():
    mixed = mixture(EVERYTHING)
    for _ in range(4):
        next(mixed)
    resumed = mixture(EVERYTHING)
    resumed.restore(mixed.state())
    for _ in range(3):
        wanted, found = next(mixed), next(resumed)
        assert torch.equal(wanted.images, found.images)
        assert torch.equal(wanted.labels["depth"], found.labels["depth"])


def test_each_sample_of_a_batch_and_each_epoch_gets_its_own_zoom():
    settings = AugmentationSection(zoom_min=1.0, zoom_max=2.0)
    mixed = mixture(settings, hflip=False)
    zooms = []
    for batch in islice(mixed, 10):
        true_m = torch.tensor([1.0 + int(key[1:]) for key in batch.keys])
        zooms += (true_m / batch.labels["depth"].amax(dim=(1, 2, 3))).tolist()
    assert min(zooms) >= 1 - 1e-5
    assert max(zooms) <= 2 + 1e-5
    assert len({round(zoom, 4) for zoom in zooms}) > 50


def test_synthetic_samples_are_augmented_like_real_ones(tmp_path):
    store = open_store(str(tmp_path / "run"))
    commit(store, image_unit("a"), version=0)
    settings = AugmentationSection(zoom_min=2.0, zoom_max=2.0)
    mixed = Mixture(
        RealStream(MemorySource(4), seed=0),
        SyntheticStream(store, LiveShardList(store, poll_s=0.0), seed=0),
        real_fraction=0.5,
        batch_size=4,
        tasks=("depth",),
        augmentation=settings,
    )
    batch = next(mixed)
    assert batch.is_synthetic.tolist() == [False, False, True, True]
    # The unit's depth is 1 m everywhere; twice as large it is half as far.
    assert batch.labels["depth"][2:].unique().tolist() == [0.5]
