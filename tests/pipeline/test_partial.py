"""Images of a unit that was given back are taken over, and the unit is what it would have been."""

from __future__ import annotations

import pytest

from pipeline.loop.plan import make_plan
from pipeline.make.attempt import Attempt, UnitHistory
from pipeline.make.drain import UnitGivenBackError
from schemas.sample import IMAGE_MEMBER, JSON_MEMBER
from storage.files.stores import open_store
from storage.records.weights import read_weights
from storage.samples.shards import pack_tar, read_tar
from tests.kit.small_run import (
    all_commits,
    digests,
    make_config,
    make_generator,
    open_run_source,
    prepare,
    publish,
)

pytestmark = pytest.mark.slow

NUM_MADE = 3
FIRST = Attempt("a01")


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, creator={"batch_size": 1}, plan={"unit_size": 4})


@pytest.fixture
def store(config):
    return prepare(config)


@pytest.fixture
def unit(config):
    return make_plan(config, open_run_source(config).shards("train"))[0]


def generator_with(config, version):
    generator = make_generator(config)
    generator.take_weights(*read_weights(open_store(config.run.url), version))
    return generator


def leave_after(generator, num_made):
    def before_batch(done, total):
        if done == num_made:
            raise UnitGivenBackError(done=done, total=total)

    generator.drain.before_batch = before_batch


def give_back(config, unit, *, attempt=FIRST, num_made=NUM_MADE):
    leaving = generator_with(config, 0)
    leave_after(leaving, num_made)
    with pytest.raises(UnitGivenBackError) as caught:
        leaving.generate(unit, attempt)
    return caught.value.given_back


def make_rest(config, unit, *partials, version=0):
    staying = generator_with(config, version)
    made = []
    create = staying._images.create

    def count(drafts):
        made.extend(draft.row.source_key for draft in drafts)
        return create(drafts)

    staying._images.create = count
    result = staying.generate(unit, Attempt("a09", history=UnitHistory(partials=partials)))
    return result, made


def test_what_was_made_is_taken_over_and_the_rest_is_made(config, store, unit):
    back = give_back(config, unit)
    assert (back.done, back.total, back.kept) == (NUM_MADE, 4, NUM_MADE)
    result, made = make_rest(config, unit, back.partial)
    assert made == [unit.keys[-1]]
    assert result.taken_over == NUM_MADE
    assert all_commits(config)[0].summary["taken_over"] == NUM_MADE


def test_nothing_of_a_partial_unit_is_visible_before_it_is_whole(config, store, unit):
    give_back(config, unit)
    assert all_commits(config) == []
    assert store.list_dir("shards") == []


def test_the_unit_equals_one_made_at_a_stretch_and_has_one_version(tmp_path, config, store, unit):
    publish(config, 1)
    back = give_back(config, unit)
    make_rest(config, unit, back.partial, version=1)
    other = make_config(tmp_path, "whole", creator={"batch_size": 1}, plan={"unit_size": 4})
    prepare(other)
    publish(other, 1)
    make_rest(other, unit, version=1)
    leave_out = (JSON_MEMBER,)  # names the run
    assert digests(config, leave_out=leave_out) == digests(other, leave_out=leave_out)
    assert {row.creation_version for row in all_commits(config)[0].rows} == {1}


def test_images_of_several_attempts_add_up(config, store, unit):
    first = give_back(config, unit, num_made=1)
    again = Attempt("a02", history=UnitHistory(partials=(first.partial,)))
    second = give_back(config, unit, attempt=again, num_made=1)
    result, made = make_rest(config, unit, first.partial, second.partial)
    assert result.taken_over == 2
    assert made == list(unit.keys[2:])


def cut(data):
    return data[: len(data) // 2]


def empty(_):
    return b""


def garbage(data):
    return bytes(reversed(data))


@pytest.mark.parametrize("damage", [cut, empty, garbage])
def test_a_damaged_file_is_ignored_and_told(config, store, unit, caplog, damage):
    back = give_back(config, unit)
    store.write_bytes(back.partial, damage(store.read_bytes(back.partial)))
    result, made = make_rest(config, unit, back.partial)
    assert made == list(unit.keys)
    assert result.taken_over == 0
    assert result.counts["ok"] == 4
    assert "partial_ignored" in caplog.text


def test_a_missing_file_is_ignored(config, store, unit):
    result, made = make_rest(config, unit, f"partial/{unit.unit_id}.a01.tar")
    assert (made, result.counts["ok"]) == (list(unit.keys), 4)


@pytest.mark.parametrize("member", [IMAGE_MEMBER, JSON_MEMBER])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", None])
def test_a_damaged_image_is_made_anew_and_the_others_are_kept(config, store, unit, member, content):
    back = give_back(config, unit)
    samples = list(read_tar(store.read_bytes(back.partial)))
    if content is None:
        del samples[0][1][member]
    else:
        samples[0][1][member] = content
    store.write_bytes(back.partial, pack_tar(samples).data)
    result, made = make_rest(config, unit, back.partial)
    assert made == [unit.keys[0], unit.keys[-1]]
    assert result.taken_over == NUM_MADE - 1
    assert result.counts["ok"] == 4


def test_an_image_with_other_pixels_than_were_stored_is_made_anew(config, store, unit):
    back = give_back(config, unit)
    samples = list(read_tar(store.read_bytes(back.partial)))
    samples[0][1][IMAGE_MEMBER] = samples[1][1][IMAGE_MEMBER]
    store.write_bytes(back.partial, pack_tar(samples).data)
    _, made = make_rest(config, unit, back.partial)
    assert made == [unit.keys[0], unit.keys[-1]]


def test_images_made_under_another_recipe_are_not_taken(tmp_path, config, store, unit):
    back = give_back(config, unit)
    other = make_config(
        tmp_path, "other", creator={"batch_size": 1, "num_steps": 3}, plan={"unit_size": 4}
    )
    other_store = prepare(other)
    other_store.write_bytes(back.partial, store.read_bytes(back.partial))
    result, _ = make_rest(other, unit, back.partial)
    assert result.taken_over == 0


def test_a_store_that_takes_no_partial_file_costs_the_images_alone(
    config, store, unit, monkeypatch
):
    def refuse(*_):
        raise OSError("disk is full")

    leaving = generator_with(config, 0)
    leave_after(leaving, NUM_MADE)
    monkeypatch.setattr(type(store), "write_bytes", refuse)
    with pytest.raises(UnitGivenBackError) as caught:
        leaving.generate(unit, Attempt("a01"))
    assert caught.value.given_back.kept == 0
    assert caught.value.given_back.partial == ""
