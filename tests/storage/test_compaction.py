"""Compaction changes nothing that is read, and keeps listings and reads short."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from schemas.run_layout import COMPACTED_DIR, compacted_path
from storage.files.stores import RunStore
from storage.manifests.compaction import compact, plan_compaction, replaced_manifests
from storage.manifests.places import UnitPlace, find_units
from storage.manifests.table import ManifestReader, commit_unit, read_unit
from tests.kit.job_process import start_python
from tests.kit.manifests import (
    CountingFolders,
    Overtaken,
    expect_reads_as,
    fill,
    make_commit,
    make_unit,
    revised,
)

COMPACT_AND_DIE = """
import os, signal, sys
from storage.manifests.compaction import compact
from storage.files.stores import open_store

def die(path, units):
    os.kill(os.getpid(), signal.SIGKILL)

compact(open_store(sys.argv[1]), units_per_file=2, on_file=die)
"""


def tidy(store: RunStore) -> None:
    for path, _ in replaced_manifests(store):
        store.remove_file(path)


def test_only_full_files_are_written_unless_the_rest_is_wanted() -> None:
    places = [UnitPlace(0, f"u{i}", 0) for i in range(5)] + [UnitPlace(0, "done", 0, part=0)]
    groups = plan_compaction(places, units_per_file=2)
    assert [[place.unit_id for place in group] for group in groups] == [["u0", "u1"], ["u2", "u3"]]
    rest = plan_compaction(places, units_per_file=2, keep_rest=False)
    assert [len(group) for group in rest] == [2, 2, 1]


def test_what_is_compacted_reads_the_same_with_and_without_the_originals(store: RunStore) -> None:
    fill(store, range(7))
    before = ManifestReader(store).refresh()
    assert compact(store, units_per_file=3) == 2
    expect_reads_as(store, before)
    assert len(replaced_manifests(store)) == 6
    tidy(store)
    expect_reads_as(store, before)
    assert compact(store, units_per_file=3) == 0
    assert compact(store, units_per_file=3, keep_rest=False) == 1
    expect_reads_as(store, before)


def test_a_reader_that_knows_the_units_gets_none_of_them_again(local_store: RunStore) -> None:
    fill(local_store, range(6))
    reader = ManifestReader(local_store)
    assert len(reader.refresh()) == 6
    compact(local_store, units_per_file=3)
    assert reader.refresh() == []
    tidy(local_store)
    assert reader.refresh() == []
    fill(local_store, range(6, 8))
    assert len(reader.refresh()) == 2


@pytest.mark.slow
def test_listings_and_reads_stay_flat_as_history_grows(local_store: RunStore) -> None:
    size, costs = 16, []
    for batch in range(4):
        fill(local_store, range(batch * size, (batch + 1) * size))
        compact(local_store, units_per_file=size)
        tidy(local_store)
        counting = CountingFolders(local_store)
        assert len(ManifestReader(counting).refresh()) == (batch + 1) * size
        costs.append((counting.names.total(), sum(counting.reads.values())))
    rounds = 3
    assert costs == [(rounds + parts, parts) for parts in range(1, 5)], "one of 16 units remains"


def test_a_refresh_reads_a_compacted_file_once(local_store: RunStore) -> None:
    fill(local_store, range(4))
    compact(local_store, units_per_file=4)
    tidy(local_store)
    counting = CountingFolders(local_store)
    reader = ManifestReader(counting)
    for _ in range(5):
        reader.refresh()
    assert counting.reads == Counter({compacted_path(0): 1})


@pytest.mark.parametrize("is_tidied", [False, True])
def test_a_later_revision_outranks_a_compacted_one(local_store: RunStore, is_tidied: bool) -> None:
    fill(local_store, range(4))
    reader = ManifestReader(local_store)
    reader.refresh()
    compact(local_store, units_per_file=4)
    if is_tidied:
        tidy(local_store)
    newer = revised(1, 1)
    commit_unit(local_store, newer)
    assert reader.refresh() == [newer]
    after = ManifestReader(local_store).refresh()
    assert newer in after
    assert len(after) == 4
    expect_reads_as(local_store, after)
    compact(local_store, units_per_file=1)
    tidy(local_store)
    expect_reads_as(local_store, after)
    newest = revised(1, 2)
    commit_unit(local_store, newest)
    assert reader.refresh() == [newest]
    assert read_unit(local_store, newest.unit.round, newest.unit.unit_id) == newest


def test_a_late_copy_of_a_compacted_unit_is_not_read(local_store: RunStore) -> None:
    fill(local_store, range(2))
    before = ManifestReader(local_store).refresh()
    compact(local_store, units_per_file=2)
    tidy(local_store)
    assert commit_unit(local_store, make_commit(make_unit(0), "zombie"))
    expect_reads_as(local_store, before)


def test_an_older_revision_stands_while_the_newer_one_is_torn(local_store: RunStore) -> None:
    fill(local_store, range(1))
    (before,) = ManifestReader(local_store).refresh()
    newer = revised(0, 1)
    commit_unit(local_store, newer)
    path = UnitPlace(0, newer.unit.unit_id, 1).path
    whole = local_store.read_bytes(path)
    local_store.write_bytes(path, whole[:100])
    reader = ManifestReader(local_store)
    assert reader.refresh() == [before]
    assert reader.torn == 1
    local_store.write_bytes(path, whole)
    assert reader.refresh() == [newer]


def test_a_torn_compacted_file_leaves_the_originals_to_read(local_store: RunStore) -> None:
    fill(local_store, range(4))
    before = ManifestReader(local_store).refresh()
    compact(local_store, units_per_file=4)
    path = compacted_path(0)
    local_store.write_bytes(path, local_store.read_bytes(path)[:-9])
    reader = ManifestReader(local_store)
    assert reader.refresh() == before
    assert reader.torn == 1
    assert len(find_units(local_store)) == 4
    assert replaced_manifests(local_store) == [], "nothing is removed on the word of a torn file"


def test_a_torn_unit_is_left_where_it_is(local_store: RunStore) -> None:
    fill(local_store, range(4))
    torn = find_units(local_store)[0]
    local_store.write_bytes(torn.path, b"torn")
    before = ManifestReader(local_store).refresh()
    assert compact(local_store, units_per_file=4) == 1
    assert ManifestReader(local_store).refresh() == before
    assert torn in find_units(local_store)


@pytest.mark.slow
def test_compaction_killed_after_its_first_file_changes_nothing(local_store: RunStore) -> None:
    fill(local_store, range(6))
    before = ManifestReader(local_store).refresh()
    process = start_python(["-c", COMPACT_AND_DIE, local_store.url])
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(local_store.list_dir(COMPACTED_DIR)) == 1
    expect_reads_as(local_store, before)
    assert compact(local_store, units_per_file=2) == 2
    tidy(local_store)
    expect_reads_as(local_store, before)


def test_of_two_compactions_the_second_looks_again(local_store: RunStore) -> None:
    fill(local_store, range(4))
    before = ManifestReader(local_store).refresh()

    assert compact(Overtaken(local_store), units_per_file=4) == 0
    assert len(local_store.list_dir(COMPACTED_DIR)) == 2
    expect_reads_as(local_store, before)
