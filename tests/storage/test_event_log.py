"""The event log: whole segments, one order over all writers, nothing lost on a restart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from storage.files.stores import RunStore
from storage.records.events import ROLLED_SEGMENTS, EventWriter, read_events


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


def test_a_writer_puts_many_segments_together_and_none_is_told_twice(store: RunStore) -> None:
    writer = EventWriter(store, "w")
    for number in range(ROLLED_SEGMENTS + 3):
        writer.emit("x", number=number)
        writer.flush()
    names = store.list_dir("events")
    assert names[0] == f"w.000000-{ROLLED_SEGMENTS - 1:06d}.jsonl"
    assert len(names) == 1 + 3
    wanted = list(range(ROLLED_SEGMENTS + 3))
    assert [event["number"] for event in read_events(store)] == wanted
    later = EventWriter(store, "w")
    later.emit("x", number=ROLLED_SEGMENTS + 3)
    later.flush()
    assert store.list_dir("events")[-1] == f"w.{ROLLED_SEGMENTS + 3:06d}.jsonl"
    assert [event["number"] for event in read_events(store)] == [*wanted, wanted[-1] + 1]


def test_lines_left_in_two_files_by_a_killed_writer_are_told_once(local_store: RunStore) -> None:
    writer = EventWriter(local_store, "w")
    for number in range(3):
        writer.emit("x", number=number)
        writer.flush()
    data = b"".join(local_store.read_bytes(f"events/w.{n:06d}.jsonl") for n in range(3))
    local_store.write_bytes("events/w.000000-000002.jsonl", data)
    assert [event["number"] for event in read_events(local_store)] == [0, 1, 2]


def test_a_segment_that_is_gone_since_the_listing_is_found_where_it_went(
    local_store: RunStore,
) -> None:
    writer = EventWriter(local_store, "w")
    for number in range(ROLLED_SEGMENTS - 1):
        writer.emit("x", number=number)
        writer.flush()

    class Rolling(RunStore):
        def read_bytes(self, rel: str, **options: int | None) -> bytes:
            if local_store.exists("events/w.000005.jsonl"):
                writer.emit("x", number=ROLLED_SEGMENTS - 1)
                writer.flush()
            return super().read_bytes(rel, **options)

    events = read_events(Rolling(local_store.url, local_store.root))
    assert [event["number"] for event in events] == list(range(ROLLED_SEGMENTS))


def set_clock(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("storage.records.events._now", lambda: f"2026-01-01T{text}:00.000000+00:00")


def test_a_younger_drivers_events_come_later_whatever_its_clock_says(store, monkeypatch) -> None:
    for epoch, hour in ((1, "13:00"), (2, "11:00"), (10, "12:00")):
        set_clock(monkeypatch, hour)
        for writer in ("run", f"trainer-{epoch}"):
            log = EventWriter(store, writer, epoch=epoch)
            log.emit("told")
            log.flush()
    assert [event["epoch"] for event in read_events(store)] == [1, 1, 2, 2, 10, 10]


def test_a_writers_events_stay_in_order_when_its_clock_is_set_back(store, monkeypatch) -> None:
    log = EventWriter(store, "trainer", epoch=1)
    for name, hour in (("first", "12:00"), ("second", "11:00"), ("third", "11:30")):
        set_clock(monkeypatch, hour)
        log.emit(name)
        log.flush()
    set_clock(monkeypatch, "11:59")
    other = EventWriter(store, "generation", epoch=1)
    other.emit("between")
    other.flush()
    found = [event["event"] for event in read_events(store)]
    assert found == ["between", "first", "second", "third"]
