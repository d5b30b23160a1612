"""Training workers that are killed at chosen and at random moments, and machines that go away."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.verify import main as verify
from runs.directory import claim_run_directory
from storage.files.stores import open_store
from storage.records.weights import list_versions, read_manifest, read_weights
from tests.kit.faults.cluster import local_ray
from tests.kit.faults.killed import strike
from tests.kit.small_stage import commit_synthetic, make_config
from tests.kit.wholeness import expect_whole
from trainers.final import read_final_weights
from trainers.on_ray.train import train_stage_on_ray
from trainers.train_stage import train_stage_locally

# Several starts of Ray processes, one after the other: a third of this on a machine that is idle.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]

STEPS = 16
CHECKPOINT_STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with local_ray():
        yield


@pytest.fixture
def run(tmp_path):
    """A run that has version 0 and four synthetic samples; its plan is their unit."""
    config = make_config(
        tmp_path,
        self_improve={"steps": STEPS, "batch_size": 4},
        publish_every_images=16,
        checkpoint_every_steps=CHECKPOINT_STEPS,
    )
    train_stage_locally(config, "warm_up")
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    return config, store, [commit_synthetic(store, version=0)]


def train_with(monkeypatch, config, prepare_worker):
    """Run the stage on a worker that is prepared first; Ray sends the code along."""
    from trainers.on_ray import train as ray_train

    original = ray_train._train_on_worker

    def on_prepared_worker(loop):
        prepare_worker()
        return original(loop)

    monkeypatch.setattr(ray_train, "_train_on_worker", on_prepared_worker)
    return train_stage_on_ray(config, "self_improve")


def expect_exactly_the_plan(store, plan, ended):
    """All steps were made, a version each sixteen images and no other, and the end is the last."""
    assert (ended["step"], ended["seen_images"]) == (STEPS, STEPS * 4)
    versions = list_versions(store)
    assert versions == list(range(len(versions)))
    assert [read_manifest(store, version).step for version in versions] == [0, 4, 8, 12, 16]
    assert read_final_weights(store, "self_improve") == read_weights(store, versions[-1])[1]
    expect_whole(store.url, plan)
    verify([store.url])


MOMENTS = {
    "before the tensors of a version": "weights/v00000002/model.safetensors",
    "before the manifest of a version, its tensors written": "weights/v00000002/manifest.json",
    "before the end of the stage, its last version published": "self_improve/final/final.json",
}


@pytest.mark.parametrize("path", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_worker_killed_right_before_a_write_is_followed_by_one_that_makes_it(
    tmp_path, monkeypatch, run, path
):
    config, store, plan = run
    died = tmp_path / "died"

    def prepare_worker():
        if died.exists():
            return

        def is_it(method, rel):
            if not rel.endswith(path):
                return False
            died.touch()
            return True

        strike(signal.SIGKILL, before=is_it)

    ended = train_with(monkeypatch, config, prepare_worker)
    assert died.exists()
    expect_exactly_the_plan(store, plan, ended)


@pytest.mark.smoke
def test_a_worker_killed_between_a_version_and_the_registrys_put_loses_nothing(
    tmp_path, monkeypatch, run
):
    """The version is committed and nobody has been told; the registry finds it by itself."""
    import ray

    from pipeline.on_ray.registry import start_registry

    config, store, plan = run
    died = tmp_path / "died"

    def prepare_worker():
        from trainers import publish

        commit = publish.publish_weights

        def commit_and_die(store, data, **facts):
            manifest = commit(store, data, **facts)
            if manifest.version == 2 and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return manifest

        publish.publish_weights = commit_and_die

    registry = start_registry(config)
    ended = train_with(monkeypatch, config, prepare_worker)
    assert died.exists()
    expect_exactly_the_plan(store, plan, ended)
    manifest, (reference,) = ray.get(registry.latest.remote())
    version = manifest.version
    assert version == list_versions(store)[-1]
    assert (ray.get(reference), manifest.sha256) == (
        read_weights(store, version)[1],
        read_manifest(store, version).sha256,
    )
    ray.kill(registry)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_worker_killed_at_random_moments_makes_exactly_the_planned_steps(
    tmp_path, monkeypatch, run, seed
):
    config, store, plan = run
    pids = tmp_path / "pids"
    pids.mkdir()
    draw, stopping = random.Random(seed), threading.Event()

    def kill_twice():
        for number in range(2):
            while not stopping.wait(0.02) and len(list(pids.iterdir())) <= number:
                pass
            time.sleep(draw.uniform(0.0, 4.0))
            newest = max(pids.iterdir(), key=lambda path: path.stat().st_mtime, default=None)
            if newest is not None and not stopping.is_set():
                with suppress(ProcessLookupError):
                    os.kill(int(newest.name), signal.SIGKILL)

    def prepare_worker():
        (Path(pids) / str(os.getpid())).touch()

    killer = threading.Thread(target=kill_twice, daemon=True)
    killer.start()
    try:
        ended = train_with(monkeypatch, config, prepare_worker)
    finally:
        stopping.set()
    expect_exactly_the_plan(store, plan, ended)
    assert ended["started_at_step"] % CHECKPOINT_STEPS == 0
