"""A creator that learns, on a local Ray: trained and used there as in one process."""

from __future__ import annotations

import pytest

from pipeline.loop.local_runner import run_units
from pipeline.make.build import open_generator
from schemas.sample import JSON_MEMBER
from storage.records.weights import read_weights
from tests.kit.faults.cluster import local_ray, stopped_loops
from tests.kit.small_run import all_rows, digests, make_config, make_control, prepare
from trainers.on_ray.train import train_stage_on_ray
from trainers.train_stage import train_stage_locally

pytestmark = pytest.mark.ray

STAGE = {"steps": 3, "batch_size": 4, "learning_rate": 1.0e-2, "ema_decay": 0.5}
WAIT_S = 120


@pytest.fixture(scope="module", autouse=True)
def one_node():
    with local_ray():
        yield


@pytest.fixture
def start_loop():
    from pipeline.on_ray.coordinator import GenerationLoop

    with stopped_loops(GenerationLoop) as start:
        yield start


def test_the_stage_and_its_images_on_ray_equal_those_of_one_process(tmp_path, start_loop):
    section = {"creator": STAGE}
    local, remote = (make_config(tmp_path, n, training=section) for n in ("local", "remote"))
    stores = [prepare(config) for config in (local, remote)]
    train_stage_locally(local, "creator")
    ended = train_stage_on_ray(remote, "creator")
    assert (ended["step"], ended["version"]) == (3, 0)
    weights = [read_weights(store, 0, series="creator") for store in stores]
    assert weights[0][1] == weights[1][1]

    run_units(make_control(local), open_generator(local, stores[0]), stores[0])
    assert start_loop(remote, num_generators=1).join(WAIT_S) == "finished"
    leave_out = (JSON_MEMBER,)  # names the run
    assert digests(remote, leave_out=leave_out) == digests(local, leave_out=leave_out)
    assert {(row.creator_version, row.creator_hash) for row in all_rows(remote)} == {
        (0, weights[0][0].sha256)
    }
