"""The driver is killed on the spot, and the same command is given again."""

from __future__ import annotations

import json
import signal

import pytest

from storage.files.stores import open_store
from storage.manifests.table import ManifestReader
from storage.records.weights import list_versions, read_manifest
from tests.kit.faults.submitted import committed, expect_verified, submissions
from tests.kit.small_loop import (
    CHECKPOINT_STEPS,
    STEPS,
    write_creator,
    write_generation,
    write_training,
)
from tests.kit.wholeness import expect_whole

# Several starts of Ray processes, one after the other: a third of this on a machine that is idle.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster():
    with submissions() as made:
        yield made


def test_a_driver_killed_while_units_are_made_is_followed_by_one_that_makes_the_others(
    tmp_path, cluster
):
    arguments, plan = write_generation(tmp_path)
    run = tmp_path / "run"
    with cluster.running("generate", arguments, log=tmp_path / "1.log") as job:
        job.wait_until(lambda: list(run.glob("manifest/units/*/*")), "a unit")
        assert job.signal(signal.SIGKILL).survivors == []
    before = committed(run)
    ended = cluster.finish("generate", arguments, log=tmp_path / "2.log")
    assert ended.code == 0, ended.output
    assert before.items() <= committed(run).items()
    expect_whole(str(run), plan)
    expect_verified(str(run))


def test_a_driver_killed_while_a_learnt_creator_makes_units_is_followed_by_one_of_that_version(
    tmp_path, cluster
):
    arguments, plan = write_generation(tmp_path, creator_learns=True)
    run = tmp_path / "run"
    with cluster.running("generate", arguments, log=tmp_path / "1.log") as job:
        job.wait_until(lambda: list(run.glob("manifest/units/*/*")), "a unit")
        job.signal(signal.SIGKILL)
    before = committed(run)
    ended = cluster.finish("generate", arguments, log=tmp_path / "2.log")
    assert ended.code == 0, ended.output
    assert before.items() <= committed(run).items()
    store = open_store(str(run))
    (version,) = list_versions(store, series="creator")
    digest = read_manifest(store, version, series="creator").sha256
    rows = [row for commit in ManifestReader(store).refresh() for row in commit.rows]
    assert {(row.creator_version, row.creator_hash) for row in rows} == {(version, digest)}
    expect_whole(str(run), plan)
    expect_verified(str(run))


def test_a_driver_killed_while_the_creator_learns_is_followed_by_one_that_goes_on(
    tmp_path, cluster
):
    arguments, _ = write_creator(tmp_path)
    run = tmp_path / "run"
    with cluster.running("train", arguments, log=tmp_path / "1.log") as job:
        job.wait_until(lambda: list(run.glob("checkpoints/creator/*/*/*")), "a checkpoint")
        job.signal(signal.SIGKILL)
    assert list_versions(open_store(str(run)), series="creator") == []
    ended = cluster.finish("train", arguments, log=tmp_path / "2.log")
    assert ended.code == 0, ended.output
    assert list_versions(open_store(str(run)), series="creator") == [0]
    final = json.loads((run / "checkpoints/creator/final/final.json").read_text())
    assert final["step"] == STEPS
    assert final["started_at_step"] in range(CHECKPOINT_STEPS, STEPS + 1, CHECKPOINT_STEPS)


def test_a_driver_killed_during_training_is_followed_by_one_that_goes_on_at_the_checkpoint(
    tmp_path, cluster
):
    """Even if the kill came while Ray Train replaced its record, of which half is left then."""
    arguments, plan = write_training(tmp_path)
    run = tmp_path / "run"
    with cluster.running("train", arguments, log=tmp_path / "1.log") as job:
        job.wait_until(lambda: list(run.glob("weights/v00000002/manifest.json")), "version 2")
        job.signal(signal.SIGKILL)
    for record in run.glob("checkpoints/*/*/checkpoint_manager_snapshot.json"):
        record.write_bytes(record.read_bytes()[:100])
    before = committed(run)
    ended = cluster.finish("train", arguments, log=tmp_path / "2.log")
    assert ended.code == 0, ended.output
    assert before.items() <= committed(run).items()

    store = open_store(str(run))
    versions = list_versions(store)
    assert versions == list(range(len(versions)))
    published = [read_manifest(store, version).step for version in versions]
    assert published == sorted(set(published))
    final = json.loads((run / "checkpoints/self_improve/final/final.json").read_text())
    assert final["step"] == published[-1] == STEPS
    assert final["started_at_step"] in range(CHECKPOINT_STEPS, STEPS + 1, CHECKPOINT_STEPS)
    expect_whole(str(run), plan)
    expect_verified(str(run))
