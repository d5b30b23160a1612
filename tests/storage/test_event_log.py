"""The event log: whole segments, one order over all writers, nothing lost on a restart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from storage.events import EventWriter, read_events
from storage.filesystem import RunStore


def test_events_of_all_writers_come_in_order_of_time(store: RunStore) -> None:
    first, second = EventWriter(store, "generator-0"), EventWriter(store, "trainer")
    first.emit("unit_started", unit="a")
    second.emit("published", version=1)
    first.emit("unit_done", unit="a", seconds=1.5)
    second.flush()
    first.flush()
    events = list(read_events(store))
    assert [event["event"] for event in events] == ["unit_started", "published", "unit_done"]
    assert [event["writer"] for event in events] == ["generator-0", "trainer", "generator-0"]
    assert events[2]["seconds"] == 1.5
    assert events[0]["time"].endswith("+00:00")


def test_nothing_is_visible_before_a_flush_and_nothing_written_without_events(
    store: RunStore,
) -> None:
    writer = EventWriter(store, "w")
    writer.flush()
    assert store.list_dir("events") == []
    writer.emit("x")
    assert list(read_events(store)) == []
    writer.flush()
    writer.flush()
    assert store.list_dir("events") == ["w.000000.jsonl"]


def test_a_full_buffer_is_flushed(store: RunStore) -> None:
    writer = EventWriter(store, "w", flush_every=3)
    for number in range(7):
        writer.emit("x", number=number)
    assert [event["number"] for event in read_events(store)] == list(range(6))


def test_a_restarted_writer_and_its_zombie_keep_each_others_events(store: RunStore) -> None:
    old = EventWriter(store, "w")
    old.emit("before")
    old.flush()
    new = EventWriter(store, "w")
    new.emit("after")
    new.flush()
    old.emit("late")
    old.flush()
    assert [event["event"] for event in read_events(store)] == ["before", "after", "late"]


def test_threads_may_share_a_writer(local_store: RunStore) -> None:
    writer = EventWriter(local_store, "w", flush_every=10)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: writer.emit("x", number=number), range(200)))
    writer.flush()
    assert sorted(event["number"] for event in read_events(local_store)) == list(range(200))


def test_the_log_is_json_that_duckdb_reads(local_store: RunStore) -> None:
    writer = EventWriter(local_store, "w")
    writer.emit("loss", value=float("nan"), path=Path("a"), event="overwritten", name="x")
    writer.emit("loss", value=0.5)
    writer.flush()
    files = str(Path(local_store.root, "events/*.jsonl"))
    rows = duckdb.sql(f"select event, value, path from read_json_auto('{files}')").fetchall()
    assert rows == [("loss", None, "a"), ("loss", 0.5, None)]


def test_a_line_cut_off_by_a_copy_is_skipped(local_store: RunStore) -> None:
    writer = EventWriter(local_store, "w")
    writer.emit("whole")
    writer.flush()
    path = "events/w.000000.jsonl"
    whole = local_store.read_bytes(path)
    local_store.write_bytes(path, whole + whole[: len(whole) // 2])
    assert [event["event"] for event in read_events(local_store)] == ["whole"]


@pytest.mark.parametrize("name", ["", "a.b", "a/b"])
def test_a_writers_name_that_would_change_the_path_is_refused(
    local_store: RunStore, name: str
) -> None:
    with pytest.raises(ValueError, match="writer"):
        EventWriter(local_store, name)
