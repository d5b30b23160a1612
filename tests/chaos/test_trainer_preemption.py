"""The trainer's machine is taken away with notice: a checkpoint is written at once."""

from __future__ import annotations

import threading
import time

import pytest

from jobs.verify import main as verify
from runs.directory import claim_run_directory
from storage.files.stores import open_store
from storage.records.weights import list_versions
from tests.kit.faults.cluster import running_cluster, wait_until
from tests.kit.small_stage import commit_synthetic, make_config
from tests.kit.wholeness import expect_whole
from trainers.stage import ASK_EVERY_STEPS
from trainers.train_stage import train_stage_locally

# Several starts of Ray processes, one after the other: a third of this on a machine that is idle.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]

STEPS = 200
NEVER = 10_000
NOTICE_S = 60.0


@pytest.fixture(scope="module")
def cluster():
    with running_cluster(num_nodes=2) as made:
        yield made


def test_a_drained_trainer_writes_a_checkpoint_and_goes_on_elsewhere_from_it(
    tmp_path, cluster, monkeypatch
):
    from pipeline.on_ray.drain import drain_node
    from trainers.on_ray import train as ray_train

    config = make_config(
        tmp_path,
        self_improve={"steps": STEPS, "batch_size": 4},
        publish_every_images=STEPS,
        checkpoint_every_steps=NEVER,
    )
    train_stage_locally(config, "warm_up")
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    plan = [commit_synthetic(store, version=0)]
    nodes, run = tmp_path / "nodes", tmp_path / "run"
    nodes.mkdir()
    original = ray_train._train_on_worker

    def train_slowly_at_first(loop):
        import ray

        from trainers import stage

        is_first = not list(nodes.iterdir())
        note = nodes / ray.get_runtime_context().get_node_id()
        step = stage.train_step

        def slow_step(*arguments, **options):
            note.touch()
            time.sleep(0.1 if is_first else 0.0)
            return step(*arguments, **options)

        stage.train_step = slow_step
        return original(loop)

    monkeypatch.setattr(ray_train, "_train_on_worker", train_slowly_at_first)
    ended = {}
    work = threading.Thread(
        target=lambda: ended.update(ray_train.train_stage_on_ray(config, "self_improve"))
    )
    work.start()
    wait_until(lambda: list(nodes.iterdir()), "a first step")
    (node_id,) = [path.name for path in nodes.iterdir()]
    drain_node(node_id, address=cluster.address, message="spot", remaining_s=NOTICE_S)
    noted = "checkpoints/self_improve/*/checkpoint_manager_snapshot.json"
    wait_until(lambda: list(run.glob(noted)), "a checkpoint before its time")
    (node,) = [each for each in cluster.worker_nodes if each.node_id == node_id]
    cluster.remove_node(node, allow_graceful=False)
    work.join()

    assert len(list(nodes.iterdir())) == 2
    assert 0 < ended["started_at_step"] < STEPS
    assert ended["started_at_step"] % ASK_EVERY_STEPS == 0
    assert ended["step"] == STEPS
    assert list_versions(store) == list(range(len(list_versions(store))))
    expect_whole(store.url, plan)
    verify([store.url])
