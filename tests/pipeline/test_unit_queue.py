"""The queue finds what a look through the whole plan would find."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.loop.plan import make_plan
from pipeline.loop.unit_queue import UnitQueue, is_ready
from schemas.sample import SourceShard
from tests.kit.small_plan import SHARDS, make_config

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["lease", "lease any", "release", "commit", "fail", "version"]),
        st.integers(0, 40),
    ),
    max_size=60,
)


class WholeScan:
    """The same in plain words: every question looks at every unit."""

    def __init__(self, plan):
        self.plan = plan
        self.open = {unit.unit_id for unit in plan}
        self.leased = set()
        self.labels = {}

    def first_ready(self, newest):
        for unit in self.plan:
            is_free = unit.unit_id in self.open and unit.unit_id not in self.leased
            if is_free and is_ready(unit, self.labels.get(unit.image_unit_id), newest):
                return unit
        return None

    def commit(self, unit, version):
        self.open.remove(unit.unit_id)
        self.leased.discard(unit.unit_id)
        last = self.labels.get(unit.image_unit_id, (-1, -1))
        self.labels[unit.image_unit_id] = (max(unit.round, last[0]), max(version, last[1]))


def plan_of(**options):
    return make_plan(make_config(**options), SHARDS)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["reuse", "fresh"]), st.integers(1, 4), MOVES)
def test_it_decides_as_a_look_through_the_whole_plan_does(images, rounds, moves):
    plan = plan_of(images=images, rounds=rounds)
    queue, scan, newest = UnitQueue(plan), WholeScan(plan), None
    for move, number in moves:
        unit = plan[number % len(plan)]
        if move == "version":
            newest = number % 6 if number < 36 else None
        elif move.startswith("lease"):
            chosen = scan.first_ready(newest) if move == "lease" else unit
            if chosen is not None:
                assert queue.lease(chosen) == (chosen.unit_id in scan.open - scan.leased)
                scan.leased |= {chosen.unit_id} & scan.open
        elif move == "release":
            assert queue.release(unit) == (unit.unit_id in scan.leased)
            scan.leased.discard(unit.unit_id)
        elif unit.unit_id in scan.open:
            version = -1 if move == "fail" or newest is None else newest
            assert queue.remove(unit) == (unit.unit_id in scan.leased)
            queue.note_labels(unit.image_unit_id, round_index=unit.round, version=version)
            scan.commit(unit, version)
        assert queue.first_ready(newest) == scan.first_ready(newest)
        assert len(queue) == len(scan.open)
        assert (queue.get(unit.unit_id) is not None) == (unit.unit_id in scan.open)


def test_units_are_found_in_the_order_of_the_plan():
    plan = plan_of(images="fresh")
    queue, found = UnitQueue(plan), []
    while (unit := queue.first_ready(0)) is not None:
        queue.lease(unit)
        found.append(unit)
    assert found == list(plan)
    queue.release(plan[1])
    assert queue.first_ready(0) == plan[1]


def test_a_relabel_unit_waits_for_its_images():
    plan = [unit for unit in plan_of() if unit.kind == "relabel"]
    queue = UnitQueue(plan)
    assert queue.first_ready(7) is None
    queue.note_labels(plan[0].parent_unit_id, round_index=0, version=6)
    assert queue.first_ready(7) == plan[0]


def test_a_relabel_unit_waits_for_newer_weights_than_labelled_its_images():
    plan = [unit for unit in plan_of() if unit.round == 1]
    queue = UnitQueue(plan)
    for unit in plan:
        queue.note_labels(unit.parent_unit_id, round_index=0, version=3)
    assert queue.first_ready(3) is None
    assert queue.first_ready(4) == plan[0]


def test_a_relabel_unit_waits_for_the_round_before_it():
    plan = [unit for unit in plan_of() if unit.round == 2]
    queue = UnitQueue(plan)
    queue.note_labels(plan[0].parent_unit_id, round_index=0, version=0)
    assert queue.first_ready(5) is None
    queue.note_labels(plan[0].parent_unit_id, round_index=1, version=4)
    assert queue.first_ready(5) == plan[0]


def looks_per_unit(monkeypatch, num_keys):
    """Units looked at for each unit that is leased and committed, over a plan of three rounds."""
    from pipeline.loop import unit_queue

    shards = [SourceShard(name="s", keys=tuple(f"k{i}" for i in range(num_keys)), uri="")]
    plan = make_plan(make_config(rounds=3), shards)
    looks = [0]

    def counted(*arguments):
        looks[0] += 1
        return is_ready(*arguments)

    monkeypatch.setattr(unit_queue, "is_ready", counted)
    queue, version = UnitQueue(plan), 0
    while len(queue):
        unit = queue.first_ready(version)
        if unit is None:
            version += 1
            continue
        queue.lease(unit)
        queue.remove(unit)
        queue.note_labels(unit.image_unit_id, round_index=unit.round, version=version)
    return looks[0] / len(plan)


def test_a_plan_four_times_as_long_costs_no_more_looks_per_unit(monkeypatch):
    short, long = looks_per_unit(monkeypatch, 200), looks_per_unit(monkeypatch, 800)
    assert long == pytest.approx(short, rel=0.05)
    assert long < 4
