"""What a generator tells of a unit is what a reader of its manifest finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.loop.control import GenerationControl
from pipeline.make.isolate import Failure
from pipeline.make.pack import EncodedSample, commit_failed_unit, commit_samples
from pipeline.make.result import UnitResult, brief_of_result
from pipeline.make.rows import failed_row, filtered_row, planned_rows
from storage.files.stores import open_store
from storage.manifests.table import BriefReader
from tests.kit.simulated_run import make_config, plan_of

MIXED = ("ok", "filtered", "failed", "ok")


@pytest.fixture
def run(tmp_path):
    config = make_config(str(tmp_path / "run"), rounds=1)
    store = open_store(config.run.url)
    return config, store, plan_of(config, 3)


def commit(config, store, unit, attempt, statuses):
    items = []
    rows = planned_rows(config, unit, attempt=attempt)
    for row, status in zip(rows, statuses, strict=True):
        labelled = replace(row, creation_version=2)
        if status == "ok":
            items.append(EncodedSample(row=labelled, members={"json": b"{}"}))
        elif status == "filtered":
            items.append(filtered_row(labelled, "flat_image"))
        else:
            items.append(failed_row(labelled, Failure("decode_failed", "not an image")))
    result = UnitResult(
        unit_id=unit.unit_id,
        attempt=attempt,
        creation_version=2,
        counts={},
        reasons={},
        seconds={"all": 1.5, "labels": 0.5},
    )
    return commit_samples(store, unit, items, result)


@pytest.mark.parametrize("statuses", [MIXED, ("ok",) * 4, ("failed",) * 4, ("filtered",) * 4])
def test_the_word_of_a_generator_equals_the_manifest(run, statuses):
    config, store, (unit, *_) = run
    told = brief_of_result(unit, commit(config, store, unit, "one", statuses))
    (read,) = BriefReader(store).refresh()
    counts = {status: count for status, count in told.counts.items() if count}
    assert replace(told, counts=counts) == replace(read, tar_uri="", tar_sha256="")


def test_so_does_that_of_a_unit_that_was_given_up(run):
    config, store, (unit, *_) = run
    failure = Failure("timeout", "not done")
    told = brief_of_result(
        unit, commit_failed_unit(store, config, unit, failure=failure, attempt="one")
    )
    (read,) = BriefReader(store).refresh()
    counts = {status: count for status, count in told.counts.items() if count}
    assert replace(told, counts=counts) == read


def test_what_another_attempt_committed_is_read_and_not_what_this_one_told(run):
    config, store, plan = run
    control = GenerationControl(config, store, plan)
    unit, attempt = plan[0], control.lease(plan[0])
    commit(config, store, unit, "another", MIXED)
    late = commit(config, store, unit, attempt, ("ok",) * 4)
    assert not late.is_committed
    control.settle(unit, attempt, result=late)
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
