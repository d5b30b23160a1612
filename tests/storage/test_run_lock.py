"""Epochs of a run: one driver each, the elder finds out by looking, no clock in it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from schemas.errors import FencedError
from storage.files.stores import RunStore
from storage.records.run_lock import KEPT_EPOCHS, RunLock, current_drivers, drivers, take_run

BOTH = ("generate", "train")


def take(store: RunStore, *roles: str, job: str = "job") -> RunLock:
    return take_run(store, job=job, roles=roles or BOTH)


def test_the_younger_driver_fences_the_elder(store: RunStore) -> None:
    elder = take(store)
    elder.expect_held()
    younger = take(store, job="self_improve")
    younger.expect_held()
    with pytest.raises(FencedError) as told:
        elder.expect_held()
    record = json.loads(store.read_bytes(f"lock/epoch-{younger.epoch:08d}.json"))
    for text in ("self_improve", record["host"], str(record["pid"]), record["started_at"]):
        assert text in str(told.value)
    assert "start the same command" in str(told.value)


def test_drivers_of_different_roles_work_side_by_side(store: RunStore) -> None:
    generate, train = take(store, "generate"), take(store, "train")
    for lock in (generate, train):
        lock.expect_held()
    assert [driver.epoch for driver in current_drivers(store)] == [train.epoch, generate.epoch]
    both = take(store)
    for lock in (generate, train):
        with pytest.raises(FencedError):
            lock.expect_held()
    assert [driver.epoch for driver in current_drivers(store)] == [both.epoch]


def test_of_many_that_start_together_one_holds_the_run_and_no_epoch_is_given_twice(
    store: RunStore,
) -> None:
    with ThreadPoolExecutor(8) as pool:
        locks = list(pool.map(lambda _: take(store), range(8)))
    assert sorted(lock.epoch for lock in locks) == list(range(1, 9))
    assert [lock.epoch for lock in locks if lock.successor() is None] == [8]


def test_a_driver_whose_answer_was_lost_holds_the_run_all_the_same(store: RunStore, monkeypatch):
    put, lost = RunStore.put_if_absent, []

    def loses_its_first_answer(self, rel, data):
        put(self, rel, data)
        if not lost:
            lost.append(rel)
            put(self, rel, data)  # asked again, told that it is there

    monkeypatch.setattr(RunStore, "put_if_absent", loses_its_first_answer)
    lock = take(store)
    lock.expect_held()
    assert max(driver.epoch for driver in drivers(store)) == lock.epoch


def test_old_records_go_but_an_elder_still_finds_its_successor(store: RunStore) -> None:
    asleep = take(store, "generate")
    successor = take(store, "generate", job="the successor")
    for _ in range(3 * KEPT_EPOCHS):
        newest = take(store, "train")
    assert len(store.list_dir("lock")) <= KEPT_EPOCHS + 3
    assert asleep.epoch not in {driver.epoch for driver in drivers(store)}
    with pytest.raises(FencedError, match="the successor"):
        asleep.expect_held()
    successor.expect_held()
    newest.expect_held()
    assert take(store).epoch == newest.epoch + 1


def test_records_of_a_later_version_of_the_project_count(store: RunStore) -> None:
    elder = take(store)
    path = f"lock/epoch-{elder.epoch + 1:08d}.json"
    record = json.loads(store.read_bytes(f"lock/epoch-{elder.epoch:08d}.json"))
    store.write_bytes(path, json.dumps({**record, "added_later": 1}).encode())
    with pytest.raises(FencedError):
        elder.expect_held()


def test_a_record_that_says_nothing_fences_nobody(store: RunStore) -> None:
    elder = take(store)
    store.write_bytes(f"lock/epoch-{elder.epoch + 1:08d}.json", b"{")
    elder.expect_held()
    assert take(store).epoch == elder.epoch + 2


def test_without_a_role_nothing_is_held_and_nothing_asked(store: RunStore) -> None:
    lock = RunLock(store=store)
    take(store)
    lock.expect_held()
    assert lock.epoch == 0
