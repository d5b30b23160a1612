"""The shipped rooms as a source."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.config_source import RoomsSource as RoomsConfig
from schemas.errors import ConfigError, SourceError
from schemas.sample import IGNORE_ID, Sample
from sources.open import open_source
from sources.rooms import ROOM_TASKS, RoomsSource
from sources.rooms_classes import CLASS_ID, CLASSES, boundaries_of, saliency_of


@pytest.fixture(scope="module")
def source() -> RoomsSource:
    return RoomsSource(RoomsConfig(num_labelled=160, num_validation=4, num_test=130), ROOM_TASKS)


@pytest.fixture(scope="module")
def sample(source) -> Sample:
    shard = source.shards("test")[0]
    (found,) = source.read(shard, shard.keys[:1])
    assert isinstance(found, Sample)
    return found


def test_limits_cut_the_splits_in_manifest_order(source):
    sizes = {
        split: [len(shard.keys) for shard in source.shards(split)]
        for split in ("train", "validation", "test")
    }
    assert sizes == {"train": [128, 32], "validation": [4], "test": [128, 2]}
    fewer = RoomsSource(RoomsConfig(num_labelled=5), ROOM_TASKS).shards("train")
    assert fewer[0].keys == source.shards("train")[0].keys[:5]


def test_a_room_has_an_image_all_labels_and_a_caption(source, sample):
    assert source.image_size == sample.image.shape[:2] == (64, 64)
    assert set(sample.labels) == set(ROOM_TASKS)
    assert sample.caption
    assert not sample.is_synthetic
    length = np.linalg.norm(sample.labels["normals"], axis=-1)
    assert np.abs(length[length > 0] - 1).max() < 1e-5
    assert 0 < sample.labels["depth"].max() < 20


def test_void_is_ignored(source):
    shard = source.shards("train")[0]
    ids = np.stack([found.labels["semseg"] for found in source.read(shard, shard.keys[:32])])
    assert 0 not in ids
    assert ids[ids != IGNORE_ID].max() < source.num_classes


def test_more_images_than_there_are_is_an_error_with_the_number():
    with pytest.raises(SourceError, match=r"source\.num_labelled = 5000: .* has 768"):
        RoomsSource(RoomsConfig(num_labelled=5000), ROOM_TASKS)


def test_the_rooms_are_found_from_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RoomsSource(RoomsConfig(), ROOM_TASKS).shards("train")


def test_rooms_have_no_labels_of_people():
    with pytest.raises(ConfigError, match=r"no labels of human_parts; they have normals.*source"):
        open_source(RoomsConfig(), ("normals", "human_parts"))


def test_derived_labels_need_no_other_task():
    source = open_source(RoomsConfig(num_labelled=1), ("boundaries", "saliency"))
    (found,) = source.read(source.shards("train")[0])
    assert list(found.labels) == ["boundaries", "saliency"]
    assert {label.dtype for label in found.labels.values()} == {np.dtype(np.float32)}


def test_furniture_is_salient_and_the_shell_is_not():
    saliency = saliency_of(np.arange(len(CLASSES), dtype=np.uint8)[None])[0]
    assert saliency[0] == -1
    for name in ("chair", "bed", "lamp", "books"):
        assert saliency[CLASS_ID[name]] == 1
    for name in ("wall", "floor", "ceiling", "window", "door", "picture", "rug", "curtain"):
        assert saliency[CLASS_ID[name]] == 0


def test_a_boundary_is_the_left_or_upper_of_two_pixels_that_differ():
    ids = np.full((5, 6), CLASS_ID["wall"], np.uint8)
    ids[2:, 3:] = CLASS_ID["bed"]
    ids[4, 0] = 0
    expected = np.zeros((5, 6), np.float32)
    expected[1, 3:] = 1
    expected[2:, 2] = 1
    expected[3, 0] = 1
    expected[4, 0] = -1
    np.testing.assert_array_equal(boundaries_of(ids), expected)


def test_the_shipped_rooms_have_something_salient_and_thin_boundaries(source):
    shard = source.shards("test")[0]
    samples = list(source.read(shard, shard.keys[:64]))
    salient = np.array([sample.labels["saliency"].mean() for sample in samples])
    assert 0.15 < salient.mean() < 0.4
    assert salient.max() < 0.8
    assert (salient > 0).mean() > 0.97
    boundaries = np.stack([sample.labels["boundaries"] for sample in samples])
    share = boundaries.mean(axis=(1, 2))
    assert share.min() > 0.02
    assert share.max() < 0.25
    # A thick line would hold full blocks of 3 x 3; they are left to things smaller than that.
    blocks = np.lib.stride_tricks.sliding_window_view(boundaries, (3, 3), axis=(1, 2))
    assert blocks.min(axis=(3, 4)).mean() < 0.001


def test_a_style_is_chosen_by_captions_and_the_unlabelled_rest_has_it_too():
    source = RoomsSource(
        RoomsConfig(
            num_labelled=20,
            num_validation=0,
            num_test=30,
            train_captions="white walls",
            test_captions="(red|blue) walls",
        ),
        ("normals",),
    )

    def captions(split):
        shards = source.shards(split)
        return [s.caption for shard in shards for s in source.read(shard, shard.keys[:10])]

    assert all("white walls" in each for each in captions("train") + captions("unlabelled"))
    assert all("red walls" in each or "blue walls" in each for each in captions("test"))
    with pytest.raises(
        SourceError, match=r"has 2 images of test whose caption matches 'grey walls'"
    ):
        RoomsSource(
            RoomsConfig(num_validation=0, num_test=3, test_captions="grey walls"), ("normals",)
        )
    with pytest.raises(ValueError, match="not a regular expression"):
        RoomsConfig(train_captions="(")
