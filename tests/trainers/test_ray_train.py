"""Stages under Ray Train: one worker, two workers, and a driver that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from schemas.config_file import dump_config
from schemas.errors import RunFailedError
from schemas.names import namespace_of, registry_name
from storage.files.stores import open_store
from storage.records.run_lock import take_run
from storage.records.weights import list_versions, read_weights
from tests.kit.small_stage import commit_synthetic, make_config
from trainers.final import read_final_weights
from trainers.on_ray.train import train_stage_on_ray, wait_for
from trainers.train_stage import train_stage_locally

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import sys
import ray
from schemas.config_file import load_config
from trainers.on_ray.train import train_stage_on_ray

ray.init(address=sys.argv[2], log_to_driver=False)
train_stage_on_ray(load_config(sys.argv[1]), "warm_up")
"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    context = ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )
    yield context.address_info["address"]
    ray.shutdown()


def start_registry(config):
    """A class within a function: Ray sends its code along, workers cannot import this module."""

    class Registry:
        def __init__(self):
            self.versions = []

        def publish(self, version, series):
            self.versions.append((series, version))

        def published(self):
            return self.versions

    place = {"name": registry_name(epoch=7), "namespace": namespace_of(config.run_id)}
    return ray.remote(Registry).options(num_cpus=0, **place).remote()


def test_one_worker_trains_what_one_process_trains_and_any_drivers_registry_gets_its_versions(
    tmp_path,
):
    for name in ("alone", "ray"):
        (tmp_path / name).mkdir()
    alone, on_ray = make_config(tmp_path / "alone"), make_config(tmp_path / "ray")
    train_stage_locally(alone, "warm_up")
    ended = train_stage_on_ray(on_ray, "warm_up")
    assert (ended["step"], ended["version"]) == (4, 0)
    wanted = read_weights(open_store(alone.run.url), 0)[1]
    assert read_weights(open_store(on_ray.run.url), 0)[1] == wanted
    assert train_stage_on_ray(on_ray, "warm_up") == ended, "a stage that has ended stays so"

    store = open_store(on_ray.run.url)
    commit_synthetic(store, version=0)
    registry = start_registry(on_ray)
    lock = take_run(store, job="train", roles=("train",))
    ended = train_stage_on_ray(on_ray, "self_improve", lock=lock)
    assert lock.epoch != 7
    assert ended["version"] == list_versions(store)[-1] >= 1
    assert read_final_weights(store, "self_improve") == read_weights(store, ended["version"])[1]
    wanted = [("creation", version) for version in list_versions(store)[1:]]
    assert ray.get(registry.published.remote()) == wanted
    ray.kill(registry)


def test_two_workers_hold_equal_weights_and_average_as_often_as_one(tmp_path):
    config = make_config(tmp_path, num_workers=2)
    train_stage_locally(config.model_copy(update={"training": one_worker(config)}), "warm_up")
    ended = train_stage_on_ray(config, "real_only_control")
    assert ended["ranks_are_equal"]
    assert (ended["world"], ended["step"], ended["seen_images"]) == (2, 6, 24)
    assert ended["ema_updates"] == 24 // 8


def one_worker(config):
    return config.training.model_copy(update={"num_workers": 1})


def test_a_killed_driver_is_followed_by_one_that_goes_on_at_the_checkpoint(tmp_path, cluster):
    long = {"steps": 60, "batch_size": 4}
    config = make_config(tmp_path, warm_up=long, checkpoint_every_steps=5)
    config_file = tmp_path / "config.yaml"
    config_file.write_text(dump_config(config))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(config_file), cluster],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_checkpoint(tmp_path / "run/checkpoints/warm_up", driver)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    short = config.training.model_copy(
        update={"warm_up": config.training.warm_up.model_copy(update={"steps": 65})}
    )
    ended = train_stage_on_ray(config.model_copy(update={"training": short}), "warm_up")
    assert 5 <= ended["started_at_step"] <= 60
    assert ended["started_at_step"] % 5 == 0
    assert ended["step"] == 65


def wait_for_checkpoint(folder: Path, driver: subprocess.Popen) -> None:
    """Wait until Ray Train has taken note of a checkpoint."""
    deadline_s = time.monotonic() + 240
    while not list(folder.glob("epoch-*/checkpoint_manager_snapshot.json")):
        assert driver.poll() is None, "the driver ended early"
        assert time.monotonic() < deadline_s, "no checkpoint appeared"
        time.sleep(0.05)


def test_a_stage_that_starves_fails_once_with_its_reason(tmp_path):
    config = make_config(tmp_path)
    train_stage_locally(config, "warm_up")
    with pytest.raises(RunFailedError, match=r"waited .* synthetic samples, found 0"):
        train_stage_on_ray(config, "self_improve")


class EndlessTrainer:
    """What Ray Train's trainer looks like from outside while workers train."""

    def fit(self):
        time.sleep(60)


def test_what_the_driver_sees_meanwhile_ends_the_wait_for_training_at_once():
    def look():
        raise RunFailedError("generation stopped: 16 of 16 samples failed")

    started_s = time.monotonic()
    with pytest.raises(RunFailedError, match="generation stopped: 16 of 16"):
        wait_for(EndlessTrainer(), look)
    assert time.monotonic() - started_s < 20
