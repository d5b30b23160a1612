"""What a generator answers about a unit is what a reader of its manifest finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.loop.control import GenerationControl
from pipeline.make.attempt import Attempt
from pipeline.make.commit import commit_failed_unit, commit_samples
from pipeline.make.isolate import Failure
from pipeline.make.rows import Draft, failed_row, filtered_row, planned_rows
from storage.files.stores import open_store
from storage.manifests.table import OutcomeReader, commit_unit, read_unit
from tests.kit.simulated_run import make_config, plan_of

MIXED = ("ok", "filtered", "failed", "ok")


@pytest.fixture
def run(tmp_path):
    config = make_config(str(tmp_path / "run"), rounds=1)
    store = open_store(config.run.url)
    return config, store, plan_of(config, 3)


def commit(config, store, unit, attempt, statuses):
    drafts = []
    rows = planned_rows(config, unit, attempt=attempt.name)
    for row, status in zip(rows, statuses, strict=True):
        labelled = replace(row, creation_version=2, creation_step=20)
        if status == "ok":
            drafts.append(Draft(row=labelled, members={"json": b"{}"}))
        elif status == "filtered":
            drafts.append(Draft(row=filtered_row(labelled, "flat_image")))
        else:
            failure = Failure("decode_failed", "not an image")
            drafts.append(Draft(row=failed_row(labelled, failure), is_taken_over=True))
    seconds = {"all": 1.5, "labels": 0.5}
    return commit_samples(store, unit, drafts, attempt, seconds=seconds)


@pytest.mark.parametrize("statuses", [MIXED, ("ok",) * 4, ("failed",) * 4, ("filtered",) * 4])
def test_what_a_generator_answers_equals_what_the_manifest_says(run, statuses):
    config, store, (unit, *_) = run
    answered = commit(config, store, unit, Attempt("one", epoch=7), statuses)
    assert OutcomeReader(store).refresh() == [answered]
    assert (answered.epoch, answered.creation_version, answered.creation_step) == (7, 2, 20)
    assert answered.taken_over == statuses.count("failed")
    assert bool(answered.tar_bytes) == ("ok" in statuses)


def test_so_does_that_of_a_unit_that_was_given_up(run):
    config, store, (unit, *_) = run
    answered = commit_failed_unit(
        store, config, unit, failure=Failure("timeout", "not done"), attempt=Attempt("one")
    )
    assert OutcomeReader(store).refresh() == [answered]
    assert answered.failed == {"timeout": unit.num_samples}


def test_of_a_manifest_with_a_short_summary_the_rows_tell_the_rest(run):
    config, store, (unit, *_) = run
    answered = commit(config, store, unit, Attempt("one"), MIXED)
    made = read_unit(store, unit.round, unit.unit_id)
    again = replace(made, unit=replace(unit, revision=1), summary={"attempt": "one"})
    assert commit_unit(store, again)
    (read,) = OutcomeReader(store).refresh()
    known = {"revision": 1, "worker": "", "creation_step": 0, "taken_over": 0}
    assert read == replace(answered, **known, seconds={}, tar_bytes=0)
    assert (read.filtered, read.failed) == ({"flat_image": 1}, {"decode_failed": 1})


def test_what_another_attempt_committed_is_read_and_not_what_this_one_told(run):
    config, store, plan = run
    control = GenerationControl(config, store, plan)
    unit, attempt = plan[0], control.lease(plan[0])
    commit(config, store, unit, Attempt("another"), MIXED)
    late = commit(config, store, unit, attempt, ("ok",) * 4)
    assert not late.is_committed
    control.settle(unit, attempt, outcome=late)
    assert control.is_look_due
    assert control.progress()["units_committed"] == 0
    assert control.refresh() == [unit]
    found = control.progress()
    assert (found["samples_ok"], found["samples_filtered"], found["samples_failed"]) == (2, 1, 1)
    assert not control.is_look_due


def test_an_attempt_that_was_lost_after_its_commit_is_found_by_the_look_that_is_due(run):
    config, store, plan = run
    control = GenerationControl(config, store, plan)
    unit, attempt = plan[0], control.lease(plan[0])
    commit(config, store, unit, attempt, MIXED)
    control.settle(unit, attempt, Failure("generator_died", "killed"))
    assert control.is_look_due
    assert control.refresh(quiet_s=60.0) == [unit]
    assert not control.ledger.is_open(unit)
