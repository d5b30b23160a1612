"""Compaction beside a run that goes on: nothing that is read changes, and folders stay short."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from schemas.run_layout import COMPACTED_DIR, UNITS_DIR, compacted_path
from schemas.unit import Unit
from storage.files.stores import RunStore, open_store
from storage.manifests.compaction import Compactor, compact
from storage.manifests.places import QuietFolders, UnitPlace, list_revisions
from storage.manifests.table import ManifestReader, OutcomeReader, commit_unit, read_unit
from storage.manifests.unit_outcome import outcome_of
from tests.kit.clock import Clock
from tests.kit.manifests import (
    CountingFolders,
    Overtaken,
    expect_reads_as,
    fill,
    make_commit,
    make_unit,
    revised,
)


def make_compactor(store: RunStore, **options) -> Compactor:
    return Compactor(store, **{"last_round": 0, "units_per_file": 4, "grace_s": 0.0, **options})


def relabel(parent: Unit, round_index: int) -> Unit:
    return replace(
        parent, round=round_index, kind="relabel", parent_unit_id=parent.unit_id, revision=0
    )


def test_full_files_are_written_and_what_they_replace_goes(local_store: RunStore) -> None:
    fill(local_store, range(10))
    before = ManifestReader(local_store).refresh()
    assert make_compactor(local_store).turn() == (2, 8)
    assert len(list_revisions(local_store)) == 2
    expect_reads_as(local_store, before)


def test_what_was_replaced_stays_for_a_while(local_store: RunStore) -> None:
    clock = Clock()
    compactor = make_compactor(local_store, grace_s=60.0, clock=clock)
    fill(local_store, range(4))
    assert compactor.turn() == (1, 0)
    clock.now_s = 59.0
    assert compactor.turn() == (0, 0)
    clock.now_s = 60.0
    assert compactor.turn() == (0, 4)


def test_a_compactor_that_takes_over_waits_anew(local_store: RunStore) -> None:
    fill(local_store, range(4))
    compact(local_store, units_per_file=4)
    clock = Clock()
    compactor = make_compactor(local_store, grace_s=60.0, clock=clock)
    assert compactor.turn() == (0, 0)
    clock.now_s = 60.0
    assert compactor.turn() == (0, 4)


def test_the_files_of_images_stay_until_the_last_round_has_labelled_them(
    local_store: RunStore,
) -> None:
    makers = [make_unit(number) for number in range(4)]
    compactor = make_compactor(local_store, last_round=2)
    for round_index in range(3):
        units = [relabel(unit, round_index) if round_index else unit for unit in makers]
        for unit in units:
            commit_unit(local_store, make_commit(unit))
        compactor.turn()
        left = {place.unit_id for place in list_revisions(local_store)}
        assert left == ({unit.unit_id for unit in makers} if round_index < 2 else set())
    assert len(ManifestReader(local_store).refresh()) == 12


def test_a_unit_that_is_labelled_again_is_found_by_its_name_alone(local_store: RunStore) -> None:
    fill(local_store, range(8))
    compactor = make_compactor(local_store, last_round=1)
    compactor.turn()
    wanted = ManifestReader(local_store).refresh()[0]
    counting = CountingFolders(local_store)
    found = read_unit(counting, wanted.unit.round, wanted.unit.unit_id, has_own_file=True)
    assert found == wanted
    assert counting.names == {}
    assert not [path for path in counting.reads if path.startswith(COMPACTED_DIR)]


def test_a_unit_without_a_file_of_its_own_is_found_all_the_same(local_store: RunStore) -> None:
    fill(local_store, range(4))
    make_compactor(local_store).turn()
    wanted = ManifestReader(local_store).refresh()[0]
    found = read_unit(local_store, wanted.unit.round, wanted.unit.unit_id, has_own_file=True)
    assert found == wanted


def test_a_later_revision_is_compacted_too_and_counts(local_store: RunStore) -> None:
    compactor = make_compactor(local_store, units_per_file=1)
    fill(local_store, range(1))
    compactor.turn()
    newer = revised(0, 1)
    commit_unit(local_store, newer)
    assert compactor.turn() == (1, 1)
    expect_reads_as(local_store, [newer])


def test_of_two_compactors_none_writes_a_unit_twice_once_it_has_looked(
    local_store: RunStore,
) -> None:
    fill(local_store, range(8))
    before = ManifestReader(local_store).refresh()
    first, second = make_compactor(local_store), make_compactor(local_store)
    assert first.turn() == (2, 8)
    assert second.turn() == (0, 0)
    expect_reads_as(local_store, before)


def test_a_compactor_that_was_overtaken_goes_on_with_the_next_turn(local_store: RunStore) -> None:
    fill(local_store, range(4))
    before = ManifestReader(local_store).refresh()

    compactor = make_compactor(Overtaken(local_store))
    assert compactor.turn() == (0, 4)
    assert compactor.turn() == (0, 0)
    expect_reads_as(local_store, before)


def test_a_torn_compacted_file_stands_in_nobodys_way(local_store: RunStore) -> None:
    fill(local_store, range(4))
    before = ManifestReader(local_store).refresh()
    local_store.write_bytes(compacted_path(0), b"torn")
    assert make_compactor(local_store).turn() == (1, 4)
    assert ManifestReader(local_store).refresh() == before


def test_an_outcome_is_the_same_from_either_place(local_store: RunStore) -> None:
    fill(local_store, range(6))
    wanted = [outcome_of(commit) for commit in ManifestReader(local_store).refresh()]
    assert OutcomeReader(local_store).refresh() == wanted
    make_compactor(local_store).turn()
    assert len(list_revisions(local_store)) == 2
    assert OutcomeReader(local_store).refresh() == wanted


def test_a_unit_that_was_told_of_is_not_read(local_store: RunStore) -> None:
    fill(local_store, range(3))
    known, *others = ManifestReader(local_store).refresh()
    counting = CountingFolders(local_store)
    reader = OutcomeReader(counting)
    reader.skip(known.unit.unit_id, 0)
    assert [outcome.unit_id for outcome in reader.refresh()] == [c.unit.unit_id for c in others]
    assert counting.reads[UnitPlace(known.unit.round, known.unit.unit_id, 0).path] == 0


def test_a_quiet_folder_is_looked_at_less_and_less(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr("storage.manifests.places.time.monotonic", clock)
    folders, looks = QuietFolders(), []
    for now_s in range(200):
        clock.now_s = float(now_s)
        if folders.is_due("r=0000", 30.0):
            looks.append(now_s)
            folders.note("r=0000", is_quiet=True)
    waits = [after - before for before, after in pairwise(looks)]
    assert waits[:6] == [1, 2, 4, 8, 16, 30]
    assert set(waits[6:]) == {30}
    folders.note("r=0000", is_quiet=False)
    assert folders.is_due("r=0000", 30.0)


def counts_of_a_run(store: RunStore, num_units: int) -> tuple[float, float]:
    """Names of units that a look lists, and objects that are read for each unit."""
    counting = CountingFolders(store)
    reader, compactor = OutcomeReader(counting), make_compactor(store, units_per_file=16)
    for number in range(num_units):
        commit_unit(store, make_commit(make_unit(number)))
        if number % 8 == 7:
            assert len(reader.refresh()) == 8
            compactor.turn()
    names = counting.names.total() - counting.names[COMPACTED_DIR]
    return names / (num_units / 8), counting.reads.total() / num_units


@pytest.mark.slow
def test_a_run_four_times_as_long_costs_no_more_names_and_reads_per_unit() -> None:
    stores = [open_store(f"memory://compactor-{units}") for units in (128, 512)]
    short, long = counts_of_a_run(stores[0], 128), counts_of_a_run(stores[1], 512)
    assert long[0] <= 1.05 * short[0]
    assert long[1] <= 1.05 * short[1] < 1.2
    assert len(stores[1].list_dir(COMPACTED_DIR)) == 512 // 16
    assert stores[1].list_dir(f"{UNITS_DIR}/r=0000") == []
