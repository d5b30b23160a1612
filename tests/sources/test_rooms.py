"""The shipped rooms as a source."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.config import RoomsSource as RoomsConfig
from schemas.errors import SourceError
from schemas.sample import IGNORE_ID, TASKS, Sample
from sources.protocol import open_source, resolve_path
from sources.rooms import RoomsSource
from storage.filesystem import open_store


@pytest.fixture(scope="module")
def source() -> RoomsSource:
    return RoomsSource(RoomsConfig(num_labelled=160, num_validation=4, num_test=130), TASKS)


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
    fewer = RoomsSource(RoomsConfig(num_labelled=5), TASKS).shards("train")
    assert fewer[0].keys == source.shards("train")[0].keys[:5]


def test_a_room_has_an_image_all_labels_and_a_caption(source, sample):
    assert source.image_size == sample.image.shape[:2] == (64, 64)
    assert set(sample.labels) == set(TASKS)
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


def test_labels_of_other_tasks_are_left_out():
    source = open_source(RoomsConfig(num_labelled=1), ("depth",))
    (found,) = source.read(source.shards("train")[0])
    assert set(found.labels) == {"depth"}


def test_more_images_than_there_are_is_an_error_with_the_number():
    with pytest.raises(SourceError, match=r"source\.num_labelled = 5000: .* has 768"):
        RoomsSource(RoomsConfig(num_labelled=5000), TASKS)


def test_a_folder_without_a_manifest_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"source\.root"):
        RoomsSource(RoomsConfig(root=str(tmp_path)), TASKS)


def test_a_damaged_tar_is_not_read(tmp_path):
    shipped = open_store(resolve_path("data/rooms"))
    copy = open_store(str(tmp_path))
    copy.write_bytes("manifest.parquet", shipped.read_bytes("manifest.parquet"))
    copy.write_bytes("train-000000.tar", shipped.read_bytes("train-000000.tar")[:-4096])
    source = RoomsSource(RoomsConfig(root=str(tmp_path)), TASKS)
    with pytest.raises(SourceError, match="sha256"):
        next(iter(source.read(source.shards("train")[0])))


def test_the_rooms_are_found_from_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RoomsSource(RoomsConfig(), TASKS).shards("train")
