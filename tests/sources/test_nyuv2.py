"""The folder source on the real NYUv2 photographs, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.config_source import FolderSource as FolderConfig
from schemas.sample import IGNORE_ID, Sample
from sources.folder import FolderSource
from tests.kit.layouts.nyuv2 import nyuv2_folder

DESCRIPTION = Path(__file__).parents[2] / "configs" / "nyuv2_folder.yaml"
WALL, FLOOR, CEILING = 0, 1, 21
TASKS = ("normals", "depth", "semseg")


@pytest.fixture(scope="module")
def source() -> FolderSource:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NYUV2_DIR", str(nyuv2_folder()))
        config = FolderConfig(description=str(DESCRIPTION), num_labelled=64, num_test=8)
        return FolderSource(config, TASKS)


@pytest.fixture(scope="module")
def samples(source) -> list[Sample]:
    return list(source.read(source.shards("train")[0]))


def stacked(samples: list[Sample], task) -> np.ndarray:
    return np.stack([sample.labels[task] for sample in samples])


def mean_normal_of(samples: list[Sample], class_id: int) -> np.ndarray:
    normals, ids = stacked(samples, "normals"), stacked(samples, "semseg")
    found = normals[(ids == class_id) & normals.any(axis=-1)]
    assert len(found) > 1000
    return found.mean(axis=0)


@pytest.mark.slow
def test_sixty_four_photographs_are_read_with_all_labels(source, samples):
    assert len(samples) == 64
    assert all(isinstance(sample, Sample) for sample in samples)
    assert {sample.image.shape for sample in samples} == {(64, 64, 3)}
    assert len(source.shards("validation")) > 0
    assert source.num_classes == 40


def test_the_splits_of_the_photographs_share_no_key(source):
    keys = [
        key
        for split in ("train", "validation", "test")
        for shard in source.shards(split)
        for key in shard.keys
    ]
    assert len(keys) == len(set(keys))


def test_normals_are_unit_where_valid(samples):
    length = np.linalg.norm(stacked(samples, "normals"), axis=-1)
    assert np.abs(length[length > 0] - 1).max() < 1e-5
    assert (length > 0).mean() > 0.8


def test_floors_look_up_and_ceilings_down(samples):
    floor, ceiling = mean_normal_of(samples, FLOOR), mean_normal_of(samples, CEILING)
    assert floor[1] > 0.7
    assert ceiling[1] < -0.6
    assert abs(mean_normal_of(samples, WALL)[1]) < 0.2


def test_visible_surfaces_face_the_camera(samples):
    normals = stacked(samples, "normals")
    valid = normals.any(axis=-1)
    assert (normals[valid][:, 2] > -0.1).mean() > 0.95


def test_depth_is_that_of_rooms(samples):
    depth_m = stacked(samples, "depth")
    assert 1.5 < np.median(depth_m[depth_m > 0]) < 4.5
    assert depth_m.max() <= 10


def test_class_ids_are_those_of_forty_classes(samples):
    ids = stacked(samples, "semseg")
    assert ids[ids != IGNORE_ID].max() < 40
    assert (ids == IGNORE_ID).mean() < 0.5
