"""A store that is busy, slow, cuts connections or loses its answers: what a run makes of it."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from s3fs import S3FileSystem

from schemas.errors import AlreadyCommittedError, StoreUnreachableError
from sources.live_shards import LiveShardList
from storage.files import patience, stores
from storage.files.patience import Patience
from storage.files.stores import RunStore, open_store
from storage.records import events
from storage.records.events import EventWriter, read_events
from tests.kit.faults.commit_worker import make_unit, write_and_commit
from tests.kit.faults.faulty_proxy import FAULTS
from tests.kit.s3_server import S3Server, free_port
from tests.kit.wholeness import expect_whole

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

Use = Callable[[RunStore], Any]

USES: dict[str, tuple[Use, Any]] = {
    "read": (lambda store: store.read_bytes("there"), b"0123456789"),
    "read a range": (lambda store: store.read_bytes("there", start=2, end=5), b"234"),
    "list": (lambda store: store.list_dir(""), ["there"]),
    "look": (lambda store: (store.exists("there"), store.exists("nothing")), (True, False)),
    "write": (lambda store: store.write_bytes("new", b"1" * 9999), None),
    "create": (lambda store: store.put_if_absent("new", b"1" * 9999), None),
    "remove": (lambda store: store.remove_file("there"), None),
}


@pytest.fixture
def store(s3: S3Server) -> RunStore:
    return open_store(f"{s3.url}/{uuid.uuid4().hex}")


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", Patience(tries=2, first_wait_s=0.01))


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_in_passing_is_not_noticed(s3, store, kind, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", Patience(first_wait_s=0.05))
    for name, (use, wanted) in USES.items():
        store.write_bytes("there", b"0123456789")
        store.remove_file("new")
        path = store.root.removeprefix("bucket/")
        s3.inject(rules=[{"kind": kind, "path": path, "times": 2}], slow_s=0.2)
        assert use(store) == wanted, name
        s3.heal()
        if name in {"write", "create"}:
            assert store.read_bytes("new") == b"1" * 9999
        if name == "remove":
            assert not store.exists("there")
    at_least = {"slow": len(USES), "truncated": 3}.get(kind, 2 * len(USES))
    assert s3.injected()[kind] >= at_least
    expect_whole(store.url, [])


@pytest.mark.smoke
def test_a_create_whose_answer_was_lost_is_ours(s3, store):
    s3.inject(rules=[{"kind": "reset_after", "method": "PUT"}])
    store.put_if_absent("manifest/x", b"ours")
    puts = [entry for entry in s3.log() if entry["operation"] == "PUT"]
    assert [(put["fault"], put["status"]) for put in puts[-2:]] == [("reset_after", 200), ("", 412)]
    assert all(put["is_conditional"] for put in puts[-2:])
    assert store.read_bytes("manifest/x") == b"ours"


def test_a_create_that_came_second_loses_whatever_happens_to_its_answer(s3, store):
    store.put_if_absent("manifest/x", b"theirs")
    for kind in FAULTS:
        s3.inject(rules=[{"kind": kind, "method": "PUT"}], slow_s=0.2)
        with pytest.raises(AlreadyCommittedError):
            store.put_if_absent("manifest/x", b"ours")
    assert s3.injected().keys() >= set(FAULTS) - {"truncated"}
    s3.heal()
    assert store.read_bytes("manifest/x") == b"theirs"


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind not in {"slow", "truncated"}])
def test_a_fault_that_stays_is_an_error_that_says_what_to_do(s3, store, kind):
    store.write_bytes("there", b"0123456789")
    s3.inject(rate=1.0, kinds=[kind])
    for use, _ in USES.values():
        with pytest.raises(StoreUnreachableError, match=r"s3://bucket/.*after 2 tries; see wheth"):
            use(store)
    assert s3.injected()[kind] >= 2 * len(USES)


@pytest.mark.usefixtures("_hasty")
def test_a_body_that_is_always_cut_short_is_an_error_and_no_short_answer(s3, store):
    store.write_bytes("there", b"0123456789")
    s3.inject(rate=1.0, kinds=["truncated"])
    with pytest.raises(StoreUnreachableError, match="ClientPayloadError"):
        store.read_bytes("there")


@pytest.mark.usefixtures("_hasty", "s3")
def test_no_server_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(StoreUnreachableError, match="wanted an answer of the store"):
            open_store("s3://bucket/run").list_dir("")
    finally:
        S3FileSystem.clear_instance_cache()


def test_an_answer_that_comes_too_late_is_asked_for_again(s3, store, monkeypatch):
    store.write_bytes("there", b"0123456789")
    monkeypatch.setattr(S3FileSystem, "read_timeout", 1)
    S3FileSystem.clear_instance_cache()
    s3.inject(rules=[{"kind": "slow", "method": "GET", "path": "there"}], slow_s=30)
    try:
        assert store.read_bytes("there") == b"0123456789"
    finally:
        S3FileSystem.clear_instance_cache()
    assert s3.injected() == {"slow": 1}


@pytest.mark.smoke
def test_of_two_that_make_the_same_units_one_wins_each_under_many_faults(s3, store, monkeypatch):
    seed = random.randrange(10**6)
    monkeypatch.setattr(patience, "PATIENCE", Patience(tries=20, first_wait_s=0.05))
    s3.inject(rate=0.3, seed=seed, slow_s=0.2)
    numbers = [number for number in range(8) for _ in range(2)]
    names = [f"a{index % 2}-{index}" for index in range(len(numbers))]

    def make(number: int, name: str) -> bool:
        return write_and_commit(store, number, name)

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(make, numbers, names))
    made = s3.injected()
    s3.heal()
    assert [won[2 * number] + won[2 * number + 1] for number in range(8)] == [1] * 8
    assert len(made) >= 4
    rows = expect_whole(store.url, [make_unit(number) for number in range(8)])
    winners = {name for name, is_winner in zip(names, won, strict=True) if is_winner}
    assert {row["attempt"] for row in rows} == winners


@pytest.mark.usefixtures("_hasty")
def test_the_trainers_list_of_shards_stands_through_an_outage(s3, store):
    for number in range(2):
        write_and_commit(store, number, "a")
    live = LiveShardList(store, poll_s=0)
    assert live.refresh() == 2
    s3.inject(rate=1.0, kinds=["slow_down", "reset_before"])
    assert live.refresh() == 0
    assert live.num_units == 2
    assert live.draw() is not None
    s3.heal()
    write_and_commit(store, 2, "a")
    assert live.refresh() == 1
    assert s3.injected().total() > 0
    expect_whole(store.url, [make_unit(number) for number in range(3)])


@pytest.mark.usefixtures("_hasty")
def test_the_log_waits_for_a_store_and_loses_nothing(s3, store, monkeypatch):
    monkeypatch.setattr(events, "_ASK_AGAIN_S", 0.0)
    log = EventWriter(store, "w", flush_every=2)
    log.emit("before")
    log.flush()
    s3.inject(rate=1.0, kinds=["internal_error"])
    for number in range(5):
        log.emit("during", number=number)
    log.flush()
    s3.heal()
    log.emit("after")
    log.flush()
    found = [(event["event"], event.get("number")) for event in read_events(store)]
    assert found == [("before", None), *(("during", n) for n in range(5)), ("after", None)]
    assert json.dumps(s3.log()).count("internal_error") > 0


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 10_000])
def test_an_object_of_any_size_is_read_whole(s3, store, size, monkeypatch):
    monkeypatch.setattr(stores, "_ONE_ANSWER_BYTES", 4096)
    data = bytes(index % 251 for index in range(size))
    store.write_bytes("there", data)
    s3.inject(rules=[{"kind": "truncated", "method": "GET", "times": 2}])
    assert store.read_bytes("there") == data
