"""The steps of an attempt: bad samples fall out, and known killers are not touched."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.make.attempt import Attempt, UnitHistory
from pipeline.make.drain import UnitGivenBackError
from pipeline.make.rows import Draft
from pipeline.make.steps import Steps
from schemas.errors import SampleError
from storage.files.stores import open_store
from tests.kit.committed_units import image_unit, planned_row

UNIT = image_unit("a")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def drafts_of(*keys):
    return [Draft(row=planned_row(UNIT, key)) for key in keys]


def steps_of(store, **history):
    return Steps(store, UNIT, Attempt("a1", history=UnitHistory(**history)))


def marked(drafts):
    return [replace(draft, row=replace(draft.row, caption="done")) for draft in drafts]


def test_batches_are_announced_and_can_be_the_last(store):
    told = []

    def stop_at_four(done, total):
        told.append((done, total))
        if done == 4:
            raise UnitGivenBackError(done=done, total=total)

    made = steps_of(store).batches(
        drafts_of(*"abcdefg"), marked, batch_size=2, before_batch=stop_at_four
    )
    assert [len(next(made)), len(next(made))] == [2, 2]
    with pytest.raises(UnitGivenBackError):
        next(made)
    assert told == [(0, 7), (2, 7), (4, 7)]


def test_a_bad_sample_falls_out_and_all_keep_their_places(store):
    def refuse_b(drafts):
        if any(draft.row.key == "b" for draft in drafts):
            raise SampleError("poison", "bad")
        return marked(drafts)

    made = steps_of(store).run(drafts_of(*"abc"), refuse_b, batch_size=3)
    found = [(each.row.key, each.row.status, each.row.caption) for each in made]
    assert found == [("a", "ok", "done"), ("b", "failed", ""), ("c", "ok", "done")]
    assert made[1].row.error_class == "poison"


def test_what_is_out_is_not_worked_on(store):
    steps = steps_of(store, deaths=2, suspects={"b": 2})
    seen = []

    def see(drafts):
        seen.extend(draft.row.key for draft in drafts)
        return drafts

    made = steps.run(steps.spare(drafts_of(*"abc")), see, batch_size=3)
    assert seen == ["a", "c"]
    assert [each.row.error_class for each in made] == ["", "killed_its_process", ""]


def test_with_care_samples_of_one_real_image_are_written_down_and_worked_on_together(store):
    drafts = [
        Draft(row=replace(planned_row(UNIT, key), source_key=key[0])) for key in ("a1", "a2", "b1")
    ]
    noted = []

    def look(batch):
        noted.append(json.loads(store.read_bytes(f"suspects/{UNIT.unit_id}.a1.json"))["keys"])
        return batch

    steps_of(store, deaths=1).run(drafts, look, batch_size=9, together="source_key")
    assert noted == [["a1", "a2"], ["b1"]]
