"""A creator with weights of its own: which version made an image, and the maps made with it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.loop.control import GenerationControl
from pipeline.loop.local_runner import run_units
from pipeline.loop.plan import make_plan
from pipeline.make.attempt import Attempt, UnitHistory
from pipeline.make.drain import UnitGivenBackError
from pipeline.make.origin import agree_within
from schemas.errors import RunFailedError, WeightsMismatchError
from schemas.sample import CREATOR_MEMBERS, IMAGE_MEMBER, JSON_MEMBER
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.manifests.table import commit_unit, read_unit
from storage.records.weights import read_weights
from storage.samples.codecs import decode_label, decode_sample
from storage.samples.shards import pack_tar, read_tar
from tests.kit.learned_creator import TintCreator, publish_creator
from tests.kit.small_run import (
    all_commits,
    all_rows,
    digests,
    make_config,
    make_control,
    make_generator,
    prepare,
    publish,
    stored_members,
)

MAP = CREATOR_MEMBERS["normals"]
SERIES_NAMES = ("creation", "creator")


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, creator={"batch_size": 1}, plan={"unit_size": 4})


@pytest.fixture
def store(config):
    return prepare(config)


@pytest.fixture
def unit(config):
    return make_plan(config, open_run_source(config).shards("train"))[0]


def generator_with(config, *, creation=0, creator=0):
    generator = make_generator(config, creator=TintCreator())
    store = open_store(config.run.url)
    for series, version in zip(SERIES_NAMES, (creation, creator), strict=True):
        generator.take_weights(*read_weights(store, version, series=series), series)
    return generator


def test_rows_name_the_version_that_made_the_image_and_the_one_that_labelled_it(
    config, store, unit
):
    publish(config, 1)
    made_with = [publish_creator(config, version) for version in range(3)][2]
    generator_with(config, creation=1, creator=2).generate(unit, Attempt("a1"))
    rows = all_rows(config)
    assert {(r.creation_version, r.creator_version) for r in rows} == {(1, 2)}
    assert {(r.creator_hash, r.label_origin) for r in rows} == {(made_with.sha256, "creation")}
    for parts in stored_members(config).values():
        told = json.loads(parts[JSON_MEMBER])
        assert (told["creator_version"], "label_origin" in told) == (2, False)


def test_a_creator_that_does_not_learn_leaves_rows_and_samples_as_they_are(config, store, unit):
    publish_creator(config, 0)
    generator = make_generator(config)
    generator.take_weights(*read_weights(store, 0))
    assert generator.versions == {"creation": 0}
    generator.generate(unit, Attempt("a1"))
    rows = all_rows(config)
    assert {(r.creator_version, r.creator_hash) for r in rows} == {(-1, "")}
    for parts in stored_members(config).values():
        assert list(parts) == [IMAGE_MEMBER, "normals.png", "normals_confidence.png", JSON_MEMBER]
        assert not {"creator_version", "label_origin"} & json.loads(parts[JSON_MEMBER]).keys()


def test_what_the_creator_made_with_an_image_lies_beside_its_label(config, store, unit):
    publish_creator(config, 0)
    generator = generator_with(config)
    generator.generate(unit, Attempt("a1"))
    direction = generator._modules["creator"].direction.numpy()
    for (_, key), parts in stored_members(config).items():
        assert list(parts) == [
            *(IMAGE_MEMBER, "normals.png", "normals_confidence.png"),
            *(MAP, JSON_MEMBER),
        ]
        sample = decode_sample(key, parts)
        cosine = sample.creator_maps["normals"] @ direction / np.linalg.norm(direction)
        assert cosine.min() > np.cos(np.radians(0.4))
        assert set(sample.labels) == set(sample.reliability) == {"normals"}


@pytest.mark.parametrize("missing", SERIES_NAMES)
def test_a_generator_without_weights_of_either_series_makes_nothing(config, store, unit, missing):
    publish_creator(config, 0)
    generator = make_generator(config, creator=TintCreator())
    (given,) = set(SERIES_NAMES) - {missing}
    generator.take_weights(*read_weights(store, 0, series=given), given)
    with pytest.raises(RunFailedError, match=f"no {missing} weights"):
        generator.generate(unit, Attempt("a1"))
    assert all_commits(config) == []


def test_weights_of_the_other_series_are_refused(config, store):
    publish_creator(config, 0)
    generator = make_generator(config, creator=TintCreator())
    for series, other in zip(SERIES_NAMES, reversed(SERIES_NAMES), strict=True):
        with pytest.raises(WeightsMismatchError, match="keys_hash"):
            generator.take_weights(*read_weights(store, 0, series=other), series)
    assert generator.versions == {"creation": None, "creator": None}


def test_a_run_takes_the_newest_of_both_series_before_each_unit(config, store):
    publish_creator(config, 0)
    control, generator = make_control(config), make_generator(config, creator=TintCreator())

    def publish_once(_):
        publish_creator(config, 1)
        publish(config, 1)

    assert run_units(control, generator, store, on_unit=publish_once).kind == "finished"
    versions = [{(r.creation_version, r.creator_version) for r in c.rows} for c in _made(config)]
    assert versions == [{(0, 0)}, {(1, 1)}], "each unit has one version of each"


def test_a_version_that_is_asked_for_is_one_of_the_creation_weights(config, store):
    publish(config, 1)
    publish_creator(config, 0)
    publish_creator(config, 1)
    control, generator = make_control(config), make_generator(config, creator=TintCreator())
    run_units(control, generator, store, pinned_version=0)
    found = {(row.creation_version, row.creator_version) for row in all_rows(config)}
    assert found == {(0, 1)}


def test_a_run_without_the_creators_weights_stops_and_fails_no_unit(config, store):
    control, generator = make_control(config), make_generator(config, creator=TintCreator())
    decision = run_units(control, generator, store)
    assert decision.kind == "failed"
    assert "no creator weights" in decision.reason
    assert all_commits(config) == []


@pytest.mark.slow
def test_labelling_again_keeps_the_bytes_of_the_creators_maps_and_its_version(tmp_path):
    config = make_config(tmp_path, plan={"rounds": 2})
    store = prepare(config)
    publish_creator(config, 0)
    control, generator = make_control(config), make_generator(config, creator=TintCreator())
    run_units(control, generator, store)
    publish(config, 1, seen_images=8, shift=0.05)
    publish_creator(config, 1)
    assert run_units(control, generator, store).kind == "finished"
    members = stored_members(config)
    rows = {(row.round, row.key): row for row in all_rows(config)}
    for key in {key for _, key in members}:
        first, again = members[0, key], members[1, key]
        assert (first[IMAGE_MEMBER], first[MAP]) == (again[IMAGE_MEMBER], again[MAP])
        assert first["normals.png"] != again["normals.png"]
        assert [rows[i, key].creation_version for i in range(2)] == [0, 1]
        assert [rows[i, key].creator_version for i in range(2)] == [0, 0], "of the image"
        assert rows[0, key].creator_hash == rows[1, key].creator_hash != ""
        for number, parts in enumerate((first, again)):
            label, made = (decode_label(parts[name], "normals") for name in ("normals.png", MAP))
            _, share = agree_within(config.labelling)("normals", label, made)
            told = json.loads(rows[number, key].label_stats)["normals_agreement"]
            assert told == pytest.approx(share, abs=0.01), "of the newest label"


def test_labelling_again_needs_no_weights_of_the_creator(tmp_path):
    config = make_config(tmp_path, plan={"rounds": 2})
    store = prepare(config)
    publish_creator(config, 0)
    run_units(make_control(config), make_generator(config, creator=TintCreator()), store)
    plan = make_plan(config, open_run_source(config).shards("train"))
    again = next(unit for unit in plan if unit.kind == "relabel")
    generator = make_generator(config, creator=TintCreator())
    generator.take_weights(*read_weights(store, 0))
    assert generator.generate(again, Attempt("a1")).counts["ok"] == 2


@pytest.mark.parametrize("is_there", [True, False])
def test_a_retry_makes_the_images_with_the_version_that_made_those_that_stand(
    config, store, is_there
):
    """Later rounds have labelled those; where none is left, the newest version is as good."""
    publish_creator(config, 0)
    run_units(make_control(config), make_generator(config, creator=TintCreator()), store)
    publish_creator(config, 1)
    first = all_commits(config)[0]
    states = ["ok", *["failed"] * 3] if is_there else ["failed"] * 4
    rows = [
        replace(row, status=status, tar_uri=row.tar_uri if status == "ok" else "")
        for row, status in zip(first.rows, states, strict=True)
    ]
    assert commit_unit(store, replace(first, unit=replace(first.unit, revision=1), rows=rows))
    again = replace(first.unit, revision=2)
    control = GenerationControl(config, store, [again], weights_final=True)
    run_units(control, make_generator(config, creator=TintCreator()), store)
    made = read_unit(store, 0, again.unit_id)
    assert {row.status for row in made.rows} == {"ok"}
    assert {row.creator_version for row in made.rows} == {0 if is_there else 1}


def give_back(config, unit, *, num_made, **versions):
    leaving = generator_with(config, **versions)

    def before_batch(done, total):
        if done == num_made:
            raise UnitGivenBackError(done=done, total=total)

    leaving.drain.before_batch = before_batch
    with pytest.raises(UnitGivenBackError) as caught:
        leaving.generate(unit, Attempt("a01"))
    return caught.value.given_back.partial


def make_rest(config, unit, partial, **versions):
    staying = generator_with(config, **versions)
    history = UnitHistory(partials=(partial,) if partial else ())
    result = staying.generate(unit, Attempt("a09", history=history))
    return result, staying._images._learned.made


def test_images_that_are_taken_over_bring_their_maps(tmp_path, config, store, unit):
    publish_creator(config, 0)
    partial = give_back(config, unit, num_made=3)
    result, made = make_rest(config, unit, partial)
    assert (result.taken_over, made) == (3, 1)
    other = make_config(tmp_path, "whole", creator={"batch_size": 1}, plan={"unit_size": 4})
    prepare(other)
    publish_creator(other, 0)
    make_rest(other, unit, "")
    leave_out = (JSON_MEMBER,)  # names the run
    assert digests(config, leave_out=leave_out) == digests(other, leave_out=leave_out)
    assert sum(MAP in parts for parts in stored_members(config).values()) == 4


def test_images_of_other_weights_of_the_creator_are_made_anew(config, store, unit):
    publish_creator(config, 0)
    publish_creator(config, 1)
    partial = give_back(config, unit, num_made=3, creator=0)
    result, made = make_rest(config, unit, partial, creator=1)
    assert (result.taken_over, made) == (0, 4)
    assert {row.creator_version for row in all_rows(config)} == {1}


def test_newer_creation_weights_alone_do_not_make_images_anew(config, store, unit):
    publish(config, 1)
    publish_creator(config, 0)
    partial = give_back(config, unit, num_made=3, creation=0)
    result, made = make_rest(config, unit, partial, creation=1)
    assert (result.taken_over, made) == (3, 1)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: None])
def test_an_image_whose_map_is_damaged_is_made_anew(config, store, unit, damage):
    publish_creator(config, 0)
    partial = give_back(config, unit, num_made=3)
    samples = list(read_tar(store.read_bytes(partial)))
    first = samples[0][1]
    first[MAP] = damage(first[MAP])
    samples[0] = (samples[0][0], {name: data for name, data in first.items() if data is not None})
    store.write_bytes(partial, pack_tar(samples).data)
    result, made = make_rest(config, unit, partial)
    assert (result.taken_over, made) == (2, 2)
    assert result.counts["ok"] == 4


def _made(config):
    return sorted(all_commits(config), key=lambda commit: commit.rows[0].creation_version)
