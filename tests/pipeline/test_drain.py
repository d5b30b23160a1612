"""A generator that has to leave ends its unit if there is time, else gives it back whole."""

from __future__ import annotations

import math

import pytest

from pipeline.loop.plan import make_plan
from pipeline.make.attempt import Attempt
from pipeline.make.drain import RESERVE_S, Drain, UnitGivenBackError
from storage.files.stores import open_store
from storage.records.weights import read_weights
from tests.kit.clock import Clock
from tests.kit.small_run import (
    all_commits,
    make_config,
    make_control,
    make_generator,
    open_run_source,
    prepare,
    publish,
)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def drain(clock):
    return Drain(clock)


def test_nothing_happens_before_it_is_asked(drain, clock):
    drain.begin(total=8)
    clock.now_s += 1e6
    drain.before_batch(4, 8)
    assert not drain.is_requested


@pytest.mark.parametrize(("remaining_s", "ends"), [(11.0 + RESERVE_S, True), (9.0, False)])
def test_the_rest_is_taken_to_last_as_long_as_before(drain, clock, remaining_s, ends):
    drain.begin(total=8)
    clock.now_s += 10.0
    drain.request(remaining_s=remaining_s)
    if ends:
        drain.before_batch(4, 8)
    else:
        with pytest.raises(UnitGivenBackError, match="4 of 8"):
            drain.before_batch(4, 8)


def test_the_last_whole_unit_tells_more_than_its_images(drain, clock):
    drain.begin(total=4)
    clock.now_s += 40.0  # 10 s a sample, labels and commit included
    drain.finish(total=4)
    drain.begin(total=4)
    drain.request(remaining_s=40.0 + RESERVE_S)
    drain.before_batch(0, 4)
    drain.request(remaining_s=39.0 + RESERVE_S)
    with pytest.raises(UnitGivenBackError):
        drain.before_batch(0, 4)


def test_without_a_deadline_the_unit_is_ended_and_no_other_begun(drain):
    drain.begin(total=8)
    drain.request(remaining_s=math.inf)
    drain.before_batch(0, 8)
    drain.before_batch(4, 8)
    drain.finish(total=8)
    with pytest.raises(UnitGivenBackError, match="0 of 8"):
        drain.begin(total=8)


def test_a_unit_that_cannot_be_judged_is_given_back(drain):
    drain.begin(total=8)
    drain.request(remaining_s=1000.0)
    with pytest.raises(UnitGivenBackError):
        drain.before_batch(0, 8)


def test_a_unit_given_back_leaves_nothing_and_is_made_by_another_generator(tmp_path):
    config = make_config(tmp_path, creator={"batch_size": 1})
    store = prepare(config)
    control = make_control(config)
    unit = control.decide().unit
    attempt = control.lease(unit)
    leaving, staying = make_generator(config), make_generator(config)
    for generator in (leaving, staying):
        generator.take_weights(*read_weights(store, 0))

    begin = leaving.drain.begin

    def begin_then_ask(*, total):
        begin(total=total)
        leaving.drain.request(remaining_s=0.0)

    leaving.drain.begin = begin_then_ask
    with pytest.raises(UnitGivenBackError):
        leaving.generate(unit, attempt)
    control.take_back(unit)
    assert all_commits(config) == []
    assert open_store(config.run.url).list_dir("shards") == []
    assert control.progress()["units_leased"] == 0
    assert control.decide().unit == unit

    staying.generate(unit, control.lease(unit))
    assert [commit.unit for commit in all_commits(config)] == [unit]


@pytest.mark.slow
def test_labels_are_renewed_batch_by_batch_and_given_back_likewise(tmp_path):
    config = make_config(tmp_path, creator={"batch_size": 1}, plan={"rounds": 2})
    store = prepare(config)
    plan = make_plan(config, open_run_source(config).shards("train"))
    generator = make_generator(config)
    generator.take_weights(*read_weights(store, 0))
    generator.generate(plan[0], Attempt("a01"))
    publish(config, 1)
    generator.take_weights(*read_weights(store, 1))
    relabel = next(unit for unit in plan if unit.parent_unit_id == plan[0].unit_id)
    seen = []
    generator.drain.before_batch = lambda done, total: seen.append((done, total))
    generator.generate(relabel, Attempt("a01"))
    assert seen == [(0, 2), (1, 2)]


def test_a_paused_control_begins_nothing_and_goes_on(tmp_path):
    config = make_config(tmp_path)
    prepare(config)
    control = make_control(config)
    control.is_paused = True
    assert control.decide().kind == "paused"
    control.is_paused = False
    assert control.decide().kind == "lease"
