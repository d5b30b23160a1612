"""Publishing in the background: order, snapshots, failures."""

import shutil
import threading
from concurrent import futures
from pathlib import Path

import pytest
import torch

from perception.state_file import state_to_bytes
from schemas.digest import sha256_of
from schemas.errors import FencedError, RunFailedError
from schemas.weights import SERIES
from storage.files.stores import RunStore, open_store
from storage.records.run_lock import RunLock, take_run
from storage.records.weights import list_versions, read_manifest, read_weights
from tests.kit.small_stage import make_config, make_stage
from trainers.final import read_final, read_final_weights, write_final
from trainers.publish import WeightsPublisher, publish_first


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "run"))


@pytest.fixture
def learner(tmp_path):
    return make_stage(make_config(tmp_path), "warm_up")[1]


def make_publisher(store, **options):
    return WeightsPublisher(
        store, base_model_hash="base", ema_decay=0.9, stage="self_improve", **options
    )


@pytest.mark.parametrize("series", SERIES)
def test_the_first_weights_of_a_series_are_version_zero_and_stay(store, learner, series):
    facts = {"stage": "warm_up", "base_model_hash": "base", "ema_decay": 0.9, "series": series}
    first = publish_first(store, learner.creation, **facts)
    assert (first.version, first.step, first.seen_images, first.parent) == (0, 0, 0, -1)
    assert first.stage == "warm_up"
    with torch.no_grad():
        next(learner.creation.parameters()).add_(1)
    again = publish_first(store, learner.creation, **facts)
    assert again == first
    assert [list_versions(store, series=each) for each in SERIES if each != series] == [[]]


def test_publishers_of_two_series_do_not_see_each_other(store, learner):
    """Neither counts the other's versions, nor takes them for better trained ones."""
    publishers = {series: make_publisher(store, series=series) for series in SERIES}
    for step in (8, 4):
        change(learner, step)
        for publisher in publishers.values():
            publisher.start(learner)
            publisher.finish()
            change(learner, step)
    newest = {series: publisher.newest for series, publisher in publishers.items()}
    assert {series: (each.version, each.step) for series, each in newest.items()} == {
        "creation": (0, 8),
        "creator": (0, 8),
    }
    assert newest["creation"].sha256 != newest["creator"].sha256


def test_a_version_holds_the_weights_at_the_moment_of_the_call(store, learner):
    release = threading.Event()
    publisher = make_publisher(store, on_version=lambda _: release.wait(10))
    wanted = state_to_bytes(learner.creation)
    learner.step, learner.seen_images = 5, 80
    assert publisher.start(learner)
    with torch.no_grad():
        next(learner.creation.parameters()).add_(1)
    release.set()
    newest = publisher.finish()
    assert (newest.step, newest.seen_images) == (5, 80)
    assert read_weights(store, newest.version)[1] == wanted


def test_one_version_at_a_time_is_on_its_way(store, learner):
    release = threading.Event()
    publisher = make_publisher(store, on_version=lambda _: release.wait(10))
    learner.step = 1
    assert publisher.start(learner)
    learner.step = 2
    assert not publisher.poll()
    assert not publisher.start(learner)
    release.set()
    publisher.finish()
    assert publisher.start(learner)
    assert publisher.finish().step == 2
    assert list_versions(store) == [0, 1]


def test_less_trained_weights_are_never_published_over_better_trained_ones(store, learner):
    publisher = make_publisher(store)
    for step in (10, 4, 12):
        learner.step = step
        with torch.no_grad():
            next(learner.creation.parameters()).add_(1)
        publisher.start(learner)
        publisher.finish()
    steps = [read_manifest(store, version).step for version in list_versions(store)]
    assert steps == [10, 12]


def test_the_same_step_is_not_published_twice(store, learner):
    publisher = make_publisher(store)
    for _ in range(2):
        publisher.start(learner)
        publisher.finish()
    assert list_versions(store) == [0]


def test_equal_weights_of_a_later_step_are_published_for_their_counts(store, learner):
    publisher = make_publisher(store)
    for step in (1, 2):
        learner.step, learner.seen_images = step, 16 * step
        publisher.start(learner)
        publisher.finish()
    assert read_manifest(store, 1).seen_images == 32


def test_a_version_taken_by_another_publisher_is_passed_over(store, learner):
    mine, theirs = make_publisher(store), make_publisher(store)
    learner.step = 1
    theirs.start(learner)
    theirs.finish()
    with torch.no_grad():
        next(learner.creation.parameters()).add_(1)
    learner.step = 2
    mine.start(learner)
    assert mine.finish().version == 1


def test_a_store_that_cannot_be_written_fails_the_run_with_its_reason(tmp_path, learner):
    (tmp_path / "file").write_text("in the way")
    publisher = make_publisher(open_store(str(tmp_path / "file")))
    publisher.start(learner)
    with pytest.raises(RunFailedError, match=r"wanted to publish.*3 attempts.*mend the storage"):
        publisher.finish()


def change(learner, step):
    learner.step = step
    with torch.no_grad():
        next(learner.creation.parameters()).add_(1)


def test_a_version_that_the_store_did_not_take_is_passed_over_but_not_for_long(store, learner):
    publisher = make_publisher(store)

    def publish(step):
        learner.step = learner.seen_images = step
        assert publisher.start(learner)
        futures.wait([publisher._in_flight])

    folder = Path(store.root) / "weights"
    folder.parent.mkdir()
    folder.write_text("in the way")
    publish(1)
    publish(2)
    folder.unlink()
    publish(3)
    assert publisher.poll()
    assert [publisher.newest.step] == [3]
    shutil.rmtree(folder)
    folder.write_text("in the way")
    publish(4)
    publish(5)
    publish(6)
    with pytest.raises(RunFailedError, match=r"wanted to publish.*mend the storage"):
        publisher.poll()


def test_a_stage_that_was_resumed_publishes_no_step_a_second_time(store, learner):
    for publisher in (make_publisher(store), make_publisher(store)):
        for step in (4, 8):
            change(learner, step)
            publisher.start(learner)
            publisher.finish()
    assert [read_manifest(store, version).step for version in list_versions(store)] == [4, 8]


def test_the_end_of_a_stage_is_always_the_newest_version(store, learner):
    publisher = make_publisher(store)
    change(learner, 4)
    publisher.start(learner)
    publisher.finish()
    change(learner, 4)
    publisher.start(learner, is_last=True)
    newest = publisher.finish()
    assert read_weights(store, newest.version)[1] == state_to_bytes(learner.creation)


def test_a_trainer_whose_driver_was_replaced_publishes_nothing(store, learner):
    elder = take_run(store, job="elder", roles=("train",))
    publisher = make_publisher(store, lock=elder)
    change(learner, 4)
    publisher.start(learner)
    publisher.finish()
    take_run(store, job="younger", roles=("train",))
    change(learner, 8)
    publisher.start(learner)
    with pytest.raises(FencedError, match="younger"):
        publisher.finish()
    assert list_versions(store) == [0]


def test_a_version_that_a_late_elder_has_published_is_followed_by_the_next(
    store, learner, monkeypatch
):
    """The elder had looked before it was replaced, and writes long after."""
    elder = make_publisher(store, lock=take_run(store, job="elder", roles=("train",)))
    younger = make_publisher(store, lock=take_run(store, job="younger", roles=("train",)))
    monkeypatch.setattr(elder, "_lock", RunLock(store=store))
    put, is_late = RunStore.put_if_absent, []

    def put_after_the_elder(self, rel, data):
        if rel.endswith("v00000000/manifest.json") and not is_late:
            is_late.append(True)
            elder.start(learner)
            elder.finish()
            change(learner, 8)
        put(self, rel, data)

    monkeypatch.setattr(RunStore, "put_if_absent", put_after_the_elder)
    change(learner, 4)
    younger.start(learner)
    younger.finish()
    change(learner, 12)
    younger.start(learner)
    assert younger.finish().step == 12
    versions = list_versions(store)
    assert versions == list(range(len(versions)))
    for version in versions:
        assert read_weights(store, version)[0].version == version


def test_of_two_ends_of_a_stage_the_first_stands_whole(store, learner):
    """What a trainer that died before its end left there does not mix with what counts."""
    left_behind = state_to_bytes(learner.creation)
    store.write_bytes("checkpoints/warm_up/final/creation.safetensors", left_behind)
    change(learner, 4)
    first = write_final(store, "warm_up", learner, numbers={"by": "first"})
    wanted = state_to_bytes(learner.creation)
    change(learner, 4)
    assert write_final(store, "warm_up", learner, numbers={"by": "second"}) == first
    assert read_final(store, "warm_up") == first
    assert read_final_weights(store, "warm_up") == wanted
    for name, digest in first["sha256"].items():
        assert sha256_of(store.read_bytes(f"checkpoints/warm_up/final/{name}")) == digest
