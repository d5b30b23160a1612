"""A sample is blamed for deaths only on evidence, and the evidence outlives the driver."""

from __future__ import annotations

import json

import pytest

import pipeline.make.commit
import pipeline.make.images
from pipeline.loop.history import MAX_KILLERS, HistoryBook
from pipeline.loop.plan import make_plan
from pipeline.make.attempt import Attempt, UnitHistory
from pipeline.make.isolate import Failure
from pipeline.make.rows import Draft, planned_rows
from pipeline.make.steps import Steps
from sources.open import open_run_source
from storage.records.weights import read_weights
from tests.kit.committed_units import planned_row
from tests.kit.small_run import (
    all_commits,
    make_config,
    make_control,
    make_generator,
    prepare,
    publish,
)

KEY = "some_key"


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, plan={"unit_size": 4, "variants": 2})


@pytest.fixture
def store(config):
    return prepare(config)


@pytest.fixture
def unit(config):
    return make_plan(config, open_run_source(config).shards("train"))[0]


def work_on(store, unit, attempt, *keys):
    """Begin with the first of some samples, and go no further; with none, come to an end."""
    drafts = [Draft(row=planned_row(unit, key)) for key in keys]
    next(Steps(store, unit, attempt).batches(drafts, list, batch_size=1), None)


def begin(book, unit, name):
    attempt = Attempt(name, history=book.of(unit))
    book.begin(unit, attempt)
    return attempt


def die_over(store, book, unit, name, *keys):
    attempt = begin(book, unit, name)
    work_on(store, unit, attempt, *keys)
    return book.note_death(unit, attempt)


def test_the_first_death_blames_nobody_but_asks_for_care(store, unit):
    book = HistoryBook(store)
    assert book.of(unit) == UnitHistory()
    assert not die_over(store, book, unit, "a01", KEY)
    assert book.of(unit).is_careful
    assert not book.of(unit).killers


def test_a_sample_over_which_two_careful_attempts_died_is_left_out(store, unit):
    book = HistoryBook(store)
    book.note_death(unit, Attempt("a01"))
    assert die_over(store, book, unit, "a02", KEY)
    assert not book.of(unit).killers
    assert die_over(store, book, unit, "a03", KEY)
    (failure,) = book.of(unit).killers.values()
    assert failure.reason == "killed_its_process"


def test_deaths_over_different_samples_blame_neither(store, unit):
    book = HistoryBook(store)
    book.note_death(unit, Attempt("a01"))
    die_over(store, book, unit, "a02", "one")
    die_over(store, book, unit, "a03", "another")
    assert not book.of(unit).killers


def test_a_death_between_two_samples_tells_nothing(store, unit):
    book = HistoryBook(store)
    book.note_death(unit, Attempt("a01"))
    assert not die_over(store, book, unit, "a02")
    assert not book.note_death(unit, Attempt("a03-without-a-note"))


def test_the_next_driver_knows_what_the_last_one_saw_and_no_more(store, unit):
    book = HistoryBook(store)
    book.note_death(unit, Attempt("a01"))
    die_over(store, book, unit, "a02", KEY)
    # An attempt that went with its driver: nobody saw how it ended.
    work_on(store, unit, Attempt("a03", history=book.of(unit)), KEY)
    again = HistoryBook(store)
    assert again.of(unit) == book.of(unit)
    assert not again.of(unit).killers
    assert die_over(store, again, unit, "a04", KEY)
    assert again.of(unit).killers.keys() == {KEY}


def test_a_unit_in_which_many_samples_kill_is_not_tried_for_ever(store, unit):
    book = HistoryBook(store)
    book.note_death(unit, Attempt("a01"))
    told = [die_over(store, book, unit, f"a{i}", f"key{i}") for i in range(MAX_KILLERS + 1)]
    assert told == [True] * MAX_KILLERS + [False]


def test_deaths_over_samples_that_are_known_do_not_use_up_the_attempts(config, store):
    control, death = make_control(config), Failure("generator_died", "gone")
    unit = control.decide().unit
    assert not control.settle(unit, control.lease(unit), death)
    for key in ("one", "one", "another", "another"):
        attempt = control.lease(unit)
        work_on(store, unit, attempt, key)
        assert control.settle(unit, attempt, death)
    assert all_commits(config) == []
    assert control.decide().unit == unit
    assert control.lease(unit).history.killers.keys() == {"one", "another"}


def test_deaths_over_nothing_known_use_them_up(config, store):
    control = make_control(config)
    unit = control.decide().unit
    for _ in range(config.generation.max_attempts):
        attempt = control.lease(unit)
        assert not control.settle(unit, attempt, Failure("generator_died", "gone"))
    (commit,) = all_commits(config)
    assert {row.error_class for row in commit.rows} == {"generator_died"}
    assert store.list_dir("suspects") == []


def test_the_note_of_the_attempt_that_commits_is_removed_too(store, unit):
    book = HistoryBook(store)
    book.note_death(unit, Attempt("a01"))
    work_on(store, unit, begin(book, unit, "a02"))
    assert len(store.list_dir("suspects")) == 2
    book.forget(unit)
    assert store.list_dir("suspects") == []


def test_all_files_of_a_committed_unit_are_removed(store, unit):
    book = HistoryBook(store)
    book.note_death(unit, Attempt("a01"))
    die_over(store, book, unit, "a02", KEY)
    store.write_bytes(f"partial/{unit.unit_id}.a03.tar", b"")
    book.note_partial(unit, f"partial/{unit.unit_id}.a03.tar")
    for each in (book, HistoryBook(store)):
        assert each.of(unit).partials == (f"partial/{unit.unit_id}.a03.tar",)
    HistoryBook(store).forget(unit)
    assert store.list_dir("suspects") == store.list_dir("partial") == []
    book.forget(unit)
    assert book.of(unit) == UnitHistory()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"deaths": "x"}', b'{"deaths": 1}'])
def test_damaged_evidence_is_no_evidence(store, unit, content):
    store.write_bytes(f"suspects/{unit.unit_id}.json", content)
    assert not HistoryBook(store).of(unit).is_careful


def careful_run(config, unit, history):
    generator = make_generator(config)
    generator.take_weights(*read_weights(generator._store, 0))
    generator.generate(unit, Attempt("a05", history=history))
    return generator


@pytest.mark.slow
def test_a_careful_attempt_writes_down_each_sample_before_it_touches_it(
    config, store, unit, monkeypatch
):
    noted = []

    def spy(function):
        def call(batch, *args, **options):
            noted.append(json.loads(store.read_bytes(f"suspects/{unit.unit_id}.a05.json"))["keys"])
            return function(batch, *args, **options)

        return call

    monkeypatch.setattr(
        pipeline.make.commit, "encode_sample", spy(pipeline.make.commit.encode_sample)
    )
    monkeypatch.setattr(
        pipeline.make.images, "create_images", spy(pipeline.make.images.create_images)
    )
    careful_run(config, unit, UnitHistory(deaths=1))
    keys = [[row.key] for row in all_commits(config)[0].rows]
    assert noted == keys + keys
    last = json.loads(store.read_bytes(f"suspects/{unit.unit_id}.a05.json"))
    assert last == {"keys": []}


@pytest.mark.slow
def test_an_attempt_without_history_writes_no_notes(config, store, unit):
    careful_run(config, unit, UnitHistory())
    assert store.list_dir("suspects") == []


@pytest.mark.slow
def test_a_sample_that_killed_is_a_failed_row_and_all_others_are_made(config, store, unit):
    guilty = planned_rows(config, unit, attempt="a05")[3].key
    careful_run(config, unit, UnitHistory(deaths=3, suspects={guilty: 2}))
    rows = {row.key: row for row in all_commits(config)[0].rows}
    bad = rows.pop(guilty)
    assert (bad.status, bad.error_class) == ("failed", "killed_its_process")
    assert len(rows) == 7
    assert {row.status for row in rows.values()} == {"ok"}


@pytest.mark.slow
def test_a_real_image_that_killed_in_every_variant_is_not_read(config, store, unit):
    generator = make_generator(config)
    read = []
    source = generator._images._real._source
    original = source.read

    def spy(shard, keys):
        read.extend(keys)
        return original(shard, keys)

    source.read = spy
    rows = planned_rows(config, unit, attempt="a05")
    names = [row.key for row in rows if row.source_key == unit.keys[0]]
    assert len(names) == 2
    history = UnitHistory(deaths=3, suspects=dict.fromkeys(names, 2))
    generator.take_weights(*read_weights(store, 0))
    result = generator.generate(unit, Attempt("a05", history=history))
    assert result.counts == {"ok": 6, "filtered": 0, "failed": 2}
    assert read == list(unit.keys[1:])


@pytest.mark.slow
def test_a_sample_that_killed_while_it_was_labelled_again_is_left_out(tmp_path):
    config = make_config(tmp_path, plan={"rounds": 2})
    store = prepare(config)
    plan = make_plan(config, open_run_source(config).shards("train"))
    generator = careful_run(config, plan[0], UnitHistory())
    publish(config, 1)
    generator.take_weights(*read_weights(store, 1))
    relabel = next(unit for unit in plan if unit.parent_unit_id == plan[0].unit_id)
    guilty = all_commits(config)[0].rows[0].key
    history = UnitHistory(deaths=3, suspects={guilty: 2})
    result = generator.generate(relabel, Attempt("a05", history=history))
    assert result.counts == {"ok": 1, "filtered": 0, "failed": 1}
    assert result.failed == {"killed_its_process": 1}
