"""Processes that are killed while they commit, and processes that commit the same units."""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict
from pathlib import Path

import pytest

from storage.files.stores import RunStore, open_store
from storage.manifests.places import find_units
from storage.manifests.table import ManifestReader, manifest_table, read_unit
from storage.records.weights import list_versions, read_weights
from storage.samples.shards import load_shard
from tests.kit.committed_units import publish
from tests.kit.faults.commit_worker import (
    CRASH_POINTS,
    SAMPLES_PER_UNIT,
    make_unit,
    write_and_commit,
)
from tests.kit.job_process import start_python

ROOT = Path(__file__).parents[2]
WORKER = str(Path(__file__).parents[1] / "kit" / "faults" / "commit_worker.py")

PUBLISH_AND_DIE = """
import os, signal, sys
from storage.files.stores import RunStore, open_store
from storage.records.weights import publish_weights

put = RunStore.put_if_absent

def put_data_then_die(self, rel, data):
    if rel.endswith("manifest.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, rel, data)

RunStore.put_if_absent = put_data_then_die
publish_weights(open_store(sys.argv[1]), b"torn", version=0, step=0, seen_images=0, ema_decay=0.9,
                base_model_hash="b", keys_hash="k", stage="warm_up", parent=-1)
"""


def winners(output: str) -> dict[str, dict[str, bool]]:
    """Attempt to unit to whether it was told that it won."""
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for line in output.splitlines():
        attempt, unit_id, won = line.split()
        found[attempt][unit_id] = won == "1"
    return found


def expect_all_whole(store: RunStore) -> list[str]:
    """Every visible unit has all its rows and a tar that matches."""
    reader = ManifestReader(store)
    commits = reader.refresh()
    assert reader.torn == 0
    for commit in commits:
        assert [row.source_key for row in commit.rows] == list(commit.unit.keys)
        load_shard(store, commit.rows[0].tar_uri, commit.rows[0].tar_sha256)
    return [commit.unit.unit_id for commit in commits]


def expect_one_winner(store: RunStore, told: dict[str, dict[str, bool]], count: int) -> None:
    assert len(expect_all_whole(store)) == count
    for place in find_units(store):
        won = [attempt for attempt, units in told.items() if units[place.unit_id]]
        visible = read_unit(store, place.round, place.unit_id)
        assert [visible.attempt] == won
        assert {row.tar_uri.split(".")[-2] for row in visible.rows} == set(won)
    assert manifest_table(store).num_rows == SAMPLES_PER_UNIT * count


@pytest.mark.slow
def test_a_unit_whose_committer_is_killed_is_visible_whole_or_not_at_all(
    local_store: RunStore,
) -> None:
    output, _ = start_python([WORKER, "crash", local_store.url, "killed", "0"]).communicate()
    assert output.split() == ["True"] * len(CRASH_POINTS), "each died where it should"
    linked = make_unit(CRASH_POINTS.index("after_link"))
    assert expect_all_whole(local_store) == [linked.unit_id]
    # What was left behind does not hinder the next attempt.
    won = [write_and_commit(local_store, number, "next") for number in range(len(CRASH_POINTS))]
    assert won == [point != "after_link" for point in CRASH_POINTS]
    assert len(expect_all_whole(local_store)) == len(CRASH_POINTS)


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_whole_units_only(local_store: RunStore) -> None:
    rng = random.Random(0)
    for attempt in range(5):
        process = start_python([WORKER, "commit", local_store.url, f"a{attempt}", "100000"])
        assert process.stdout is not None
        new = 0
        while new < 5:
            new += process.stdout.readline().endswith(" 1\n")
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.communicate()
        expect_all_whole(local_store)
    assert len(find_units(local_store)) >= 25


@pytest.mark.slow
def test_of_two_processes_one_commits_and_the_others_tar_is_never_named(
    local_store: RunStore,
) -> None:
    output, _ = start_python([WORKER, "race", local_store.url, "", "30"]).communicate()
    expect_one_winner(local_store, winners(output), 30)
    tars = list(Path(local_store.root, "shards").rglob("*.tar"))
    assert len(tars) == 60, "the losers' tars are there, and nobody reads them"


@pytest.mark.slow
def test_on_s3_a_late_process_loses_every_unit(s3_url: str, tmp_path: Path) -> None:
    # One after the other: the S3 stand-in, unlike AWS, checks and writes in two steps.
    store = open_store(f"{s3_url}/{tmp_path.name}")
    output = ""
    for attempt in ("first", "second"):
        output += start_python([WORKER, "commit", store.url, attempt, "5"]).communicate()[0]
    told = winners(output)
    assert all(told["first"].values())
    expect_one_winner(store, told, 5)


def test_weights_whose_publisher_died_before_the_manifest_do_not_exist(
    local_store: RunStore,
) -> None:
    process = start_python(["-c", PUBLISH_AND_DIE, local_store.url])
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert local_store.exists("weights/v00000000/model.safetensors")
    assert list_versions(local_store) == []
    publish(local_store, 0, b"whole")
    assert read_weights(local_store, 0)[1] == b"whole"
