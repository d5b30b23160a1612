"""The list of synthetic shards as it grows."""

from __future__ import annotations

from collections import Counter

import pytest

from sources.live_shards import LiveShardList
from storage.files.stores import RunStore, open_store
from tests.kit.committed_units import commit, image_unit, publish, relabel_unit


@pytest.fixture
def store(tmp_path) -> RunStore:
    return open_store(str(tmp_path / "run"))


def draw_counts(live: LiveShardList, count: int) -> Counter[str]:
    return Counter(live.draw().unit_id for _ in range(count))


def test_an_empty_run_has_nothing_to_draw(store):
    live = LiveShardList(store)
    assert live.draw() is None
    assert list(live) == []
    assert live.current_version == -1


def test_a_new_unit_is_seen_without_reading_the_old_ones_again(store, monkeypatch):
    first = commit(store, image_unit("a"), version=0)
    read: list[str] = []
    original = RunStore.read_bytes

    def counting(self, rel, **options):
        read.append(rel)
        return original(self, rel, **options)

    monkeypatch.setattr(RunStore, "read_bytes", counting)
    live = LiveShardList(store, poll_s=0.0)
    assert live.refresh() == 1
    second = commit(store, image_unit("b"), version=0)
    read.clear()
    assert live.refresh() == 1
    assert live.refresh() == 0
    assert [rel for rel in read if first.unit.unit_id in rel] == []
    assert len([rel for rel in read if second.unit.unit_id in rel]) == 1
    assert live.num_samples == 8


def test_no_look_happens_before_its_time(store):
    now = [0.0]
    live = LiveShardList(store, poll_s=10.0, clock=lambda: now[0])
    assert live.refresh() == 0
    commit(store, image_unit("a"), version=0)
    now[0] = 9.9
    assert live.draw() is None
    now[0] = 10.0
    assert live.draw() is not None


def test_a_relabelled_unit_supersedes_its_parent(store):
    unit = image_unit("a")
    commit(store, unit, version=0)
    live = LiveShardList(store, poll_s=0.0)
    old = live.draw()
    again = relabel_unit(unit, round_index=1)
    commit(store, again, version=3)
    assert draw_counts(live, 5) == {again.unit_id: 5}
    assert not live.is_current(old)
    assert live.num_samples == 4


def test_older_labels_that_arrive_late_do_not_supersede_newer_ones(store):
    unit = image_unit("a")
    newest = relabel_unit(unit, round_index=2)
    commit(store, newest, version=5)
    live = LiveShardList(store, poll_s=0.0)
    live.refresh()
    commit(store, unit, version=0)
    commit(store, relabel_unit(unit, round_index=1), version=2)
    assert draw_counts(live, 5) == {newest.unit_id: 5}


def test_draws_are_even_when_nothing_is_stale(store):
    units = [image_unit(name) for name in "abcde"]
    for unit in units:
        commit(store, unit, version=0)
    counts = draw_counts(LiveShardList(store), 50)
    assert counts == {unit.unit_id: 10 for unit in units}


def test_a_unit_that_joins_late_is_not_served_more_than_its_share(store):
    first, second = image_unit("a"), image_unit("b")
    commit(store, first, version=0)
    live = LiveShardList(store, poll_s=0.0)
    draw_counts(live, 100)
    commit(store, second, version=0)
    counts = draw_counts(live, 20)
    assert abs(counts[first.unit_id] - counts[second.unit_id]) <= 2


def test_draws_fall_with_the_version_lag(store):
    units = [image_unit(name) for name in "abc"]
    for version, unit in enumerate(units):
        commit(store, unit, version=version)
    counts = draw_counts(LiveShardList(store, staleness_decay=0.5), 700)
    shares = [counts[unit.unit_id] for unit in units]
    assert shares == pytest.approx([100, 200, 400], abs=4)


def test_too_stale_shards_are_dropped_and_counted(store):
    old, young = image_unit("a"), image_unit("b", num_keys=3)
    commit(store, old, version=0)
    commit(store, young, version=2)
    live = LiveShardList(store, poll_s=0.0, max_staleness=2)
    assert len(draw_counts(live, 10)) == 2
    publish(store, 0)
    publish(store, 3)
    assert draw_counts(live, 10) == {young.unit_id: 10}
    live.refresh()
    assert live.snapshot()["dropped_stale"] == 4
    assert live.current_version == 3
    publish(store, 9)
    assert live.draw() is None
    assert live.snapshot()["dropped_stale"] == 7


def test_a_stale_shard_comes_back_with_new_labels(store):
    unit = image_unit("a")
    commit(store, unit, version=0)
    publish(store, 5)
    live = LiveShardList(store, poll_s=0.0, max_staleness=1)
    assert live.draw() is None
    commit(store, relabel_unit(unit, round_index=1), version=5)
    assert live.draw() is not None


def test_a_unit_without_a_good_sample_is_not_drawn(store):
    unit = image_unit("a", num_keys=2)
    commit(store, unit, version=0, filtered=unit.keys)
    assert LiveShardList(store).draw() is None


def test_a_discarded_shard_is_not_drawn_until_it_is_labelled_again(store):
    unit = image_unit("a")
    commit(store, unit, version=0)
    live = LiveShardList(store, poll_s=0.0)
    live.discard(live.draw())
    assert live.draw() is None
    commit(store, relabel_unit(unit, round_index=1), version=1)
    assert live.draw() is not None


def test_the_last_list_stays_when_the_store_fails(store, monkeypatch):
    commit(store, image_unit("a"), version=0)
    live = LiveShardList(store, poll_s=0.0)
    live.refresh()

    def failing(self, rel):
        raise OSError("no route to storage")

    monkeypatch.setattr(RunStore, "list_dir", failing)
    assert live.draw() is not None


def test_the_snapshot_tells_units_versions_and_counts(store):
    unit = image_unit("a")
    commit(store, unit, version=2)
    publish(store, 5)
    live = LiveShardList(store)
    live.count_consumed(live.draw(), 4)
    snapshot = live.snapshot()
    assert snapshot == {
        "units": [unit.unit_id],
        "current_version": 5,
        "consumed_by_version": {"2": 4},
        "lag_sum": 12,
        "dropped_stale": 0,
    }
