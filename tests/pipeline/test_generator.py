"""Generator and single-process runner, end to end on tiny random models."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import pipeline.make.generator
import pipeline.make.images
from pipeline.loop.local_runner import run_units
from pipeline.loop.plan import make_plan
from pipeline.make.attempt import Attempt
from pipeline.make.creators import create_images
from pipeline.make.label import label_images
from schemas.errors import RunFailedError, WeightsMismatchError
from schemas.sample import JSON_MEMBER
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.records.weights import read_weights
from storage.samples.codecs import decode_sample
from tests.kit.small_run import (
    BROKEN_KEY,
    all_commits,
    all_rows,
    digests,
    make_config,
    make_control,
    make_generator,
    prepare,
    publish,
    stored_members,
    write_source,
)


def run_all(config, **options):
    store = prepare(config)
    control = make_control(config, **options)
    return run_units(control, make_generator(config), store), control


def test_every_planned_unit_is_committed_and_the_counts_add_up(tmp_path):
    config = make_config(tmp_path, plan={"variants": 2})
    decision, control = run_all(config)
    assert decision.kind == "finished"
    commits = all_commits(config)
    assert len(commits) == control.ledger.num_units == 4
    rows = all_rows(config)
    assert len(rows) == len({row.key for row in rows}) == 16
    assert Counter(row.status for row in rows) == {"ok": 16}
    for commit in commits:
        assert commit.summary["counts"] == {"ok": 4, "filtered": 0, "failed": 0}
        assert commit.summary["creation_version"] == 0


def test_stored_samples_decode_and_tell_where_they_come_from(tmp_path):
    config = make_config(tmp_path)
    run_all(config)
    members = stored_members(config)
    rows = {(row.round, row.key): row for row in all_rows(config)}
    assert members.keys() == rows.keys()
    for where, parts in members.items():
        sample, row = decode_sample(where[1], parts), rows[where]
        assert sample.is_synthetic
        assert sample.caption == row.caption == f"a room {row.source_key}"
        assert set(sample.labels) == set(sample.reliability) == {"normals"}
        assert np.allclose(np.linalg.norm(sample.labels["normals"], axis=2), 1, atol=1e-5)
        assert sample.meta["seed"] == row.seed
        assert sample.meta["creation_version"] == row.creation_version == 0
        assert row.diffusion_base_hash
        assert row.source_sha256
        assert row.tar_size > 0


@pytest.mark.slow
def test_variants_of_one_image_differ(tmp_path):
    config = make_config(tmp_path, plan={"variants": 2})
    run_all(config)
    images = {key: parts["image.png"] for (_, key), parts in stored_members(config).items()}
    first = [key for key in sorted(images) if key.endswith("_v0")]
    assert all(images[key] != images[key.removesuffix("0") + "1"] for key in first)


@pytest.mark.slow
def test_the_same_configuration_makes_the_same_bytes(tmp_path):
    one, other = make_config(tmp_path, "one"), make_config(tmp_path, "other")
    for config in (one, other):
        run_all(config)
    # The json member names the run.
    assert digests(one, leave_out=(JSON_MEMBER,)) == digests(other, leave_out=(JSON_MEMBER,))


@pytest.mark.slow
def test_a_second_run_makes_nothing_twice(tmp_path):
    config = make_config(tmp_path)
    run_all(config)
    before = {commit.unit.unit_id: commit.attempt for commit in all_commits(config)}
    made = []
    store = open_store(config.run.url)
    decision = run_units(make_control(config), make_generator(config), store, on_unit=made.append)
    assert decision.kind == "finished"
    assert made == []
    assert {c.unit.unit_id: c.attempt for c in all_commits(config)} == before


@pytest.mark.slow
def test_an_image_that_does_not_decode_is_a_failed_row_and_the_rest_is_made(tmp_path):
    write_source(tmp_path / "source", with_broken_image=True)
    config = make_config(tmp_path, plan={"rounds": 2})
    store = prepare(config)
    control, generator = make_control(config), make_generator(config)
    run_units(control, generator, store)
    publish(config, 1, seen_images=12)
    assert run_units(control, generator, store).kind == "finished"
    for round_index in (0, 1):
        rows = {r.source_key: r for r in all_rows(config) if r.round == round_index}
        assert len(rows) == 8
        broken = rows.pop(BROKEN_KEY)
        assert (broken.status, broken.error_class) == ("failed", "decode_failed")
        assert broken.tar_offset == -1
        assert {row.status for row in rows.values()} == {"ok"}


def test_one_poison_image_does_not_take_its_batch_along(tmp_path, monkeypatch):
    poison = "train-000000-01"

    def create(backbone, orders, **options):
        if any(order.source.key == poison for order in orders):
            raise RuntimeError("the network chokes on it")
        return create_images(backbone, orders, **options)

    monkeypatch.setattr(pipeline.make.images, "create_images", create)
    config = make_config(tmp_path, plan={"unit_size": 4})
    run_all(config)
    rows = {row.source_key: row for row in all_rows(config)}
    assert rows.pop(poison).error_class == "RuntimeError"
    assert {row.status for row in rows.values()} == {"ok"}


@pytest.mark.slow
def test_what_screening_drops_is_a_row_with_its_reason_and_not_in_the_tar(tmp_path):
    config = make_config(tmp_path, screening={"max_expected_error_deg": 0.001})
    decision, _ = run_all(config)
    assert decision.kind == "finished"
    rows = all_rows(config)
    assert {(r.status, r.error_class) for r in rows} == {("filtered", "uncertain_normals")}
    assert all(json.loads(row.label_stats)["normals_confidence"] > 0 for row in rows)
    assert stored_members(config) == {}


@pytest.mark.slow
def test_relabelling_keeps_image_bytes_and_renews_labels(tmp_path):
    config = make_config(tmp_path, plan={"rounds": 3})
    store = prepare(config)
    control, generator = make_control(config), make_generator(config)
    assert run_units(control, generator, store).kind == "starved"
    for version in (1, 2):
        publish(config, version, seen_images=8 * version)
        run_units(control, generator, store)
    assert control.decide().kind == "finished"
    members = stored_members(config)
    rows = {(row.round, row.key): row for row in all_rows(config)}
    for (round_index, key), row in rows.items():
        before, now = members[0, key], members[round_index, key]
        assert now["image.png"] == before["image.png"]
        assert (now["normals.png"] == before["normals.png"]) == (round_index == 0)
        assert row.creation_version == round_index
        assert row.seed == rows[0, key].seed


@pytest.mark.slow
def test_the_last_version_is_looked_for_before_units_are_left_out(tmp_path):
    config = make_config(tmp_path, plan={"rounds": 3})
    store = prepare(config)
    control, generator = make_control(config), make_generator(config)
    run_units(control, generator, store)
    publish(config, 1, seen_images=8)
    control.expect_no_newer_weights()
    assert control.decide().kind == "starved"
    decision = run_units(control, generator, store)
    assert decision.kind == "finished"
    assert "4 units left out" in decision.reason
    assert {commit.unit.round for commit in all_commits(config)} == {0, 1}


@pytest.mark.slow
def test_fresh_rounds_make_other_images(tmp_path):
    config = make_config(tmp_path, plan={"rounds": 2, "images": "fresh"})
    decision, _ = run_all(config, weights_final=True)
    assert decision.kind == "finished"
    images = [members["image.png"] for members in stored_members(config).values()]
    assert len(images) == len(set(images)) == 16


@pytest.mark.slow
def test_the_gaussian_creator_uses_the_caption_alone(tmp_path):
    config = make_config(tmp_path, creator={"kind": "gaussian"})
    decision, _ = run_all(config)
    assert decision.kind == "finished"
    assert {row.t_start for row in all_rows(config)} == {1000}


@pytest.mark.slow
def test_labels_that_a_creator_gives_are_kept_and_the_others_predicted(tmp_path, monkeypatch):
    def create(backbone, orders, **options):
        made = create_images(backbone, orders, **options)
        depth = [np.full(image.shape[:2], 2.5, np.float32) for image in made.images]
        return replace(made, labels={"depth": depth})

    monkeypatch.setattr(pipeline.make.images, "create_images", create)
    config = make_config(tmp_path, method={"tasks": ["normals", "depth"]})
    run_all(config)
    members = stored_members(config)
    assert len(members) == 8
    for (_, key), parts in members.items():
        sample = decode_sample(key, parts)
        assert np.allclose(sample.labels["depth"], 2.5, atol=1e-3)
        assert set(sample.labels) == {"normals", "depth"}
        assert set(sample.reliability) == {"normals"}


@pytest.mark.slow
@pytest.mark.parametrize(("labelling", "sizes"), [({}, {4}), ({"batch_size": 1}, {1})])
def test_labels_are_made_in_batches_of_their_own_size(tmp_path, monkeypatch, labelling, sizes):
    seen = set()

    def label(backbone, method, images, **options):
        seen.add(len(images))
        return label_images(backbone, method, images, **options)

    monkeypatch.setattr(pipeline.make.generator, "label_images", label)
    run_all(make_config(tmp_path, plan={"unit_size": 4}, labelling=labelling))
    assert seen == sizes


@pytest.mark.slow
def test_generation_pauses_at_its_lead_and_goes_on_after_training(tmp_path):
    config = make_config(
        tmp_path, plan={"rounds": 3, "images": "fresh"}, generation={"max_lead": 0}
    )
    store = prepare(config)
    control, generator = make_control(config), make_generator(config)
    for version, seen in ((1, 8), (2, 16)):
        decision = run_units(control, generator, store)
        assert decision.kind == "starved"
        assert len(all_commits(config)) == 4 * version
        publish(config, version, seen_images=seen)
    # A new process has the capacity that the old one had.
    assert run_units(make_control(config), make_generator(config), store).kind == "finished"
    assert {row.creation_version for row in all_rows(config)} == {0, 1, 2}


def test_weights_of_another_method_stop_the_run_instead_of_failing_every_unit(tmp_path):
    config = make_config(tmp_path)
    store = prepare(config)
    other = make_config(tmp_path, method={"tasks": ["depth"]})
    generator = make_generator(other)
    with pytest.raises(WeightsMismatchError):
        generator.take_weights(*read_weights(store, 0))
    assert generator.version is None
    decision = run_units(make_control(config), generator, store)
    assert decision.kind == "failed"
    assert "keys_hash" in decision.reason
    assert all_commits(config) == []


def test_a_generator_without_weights_refuses_to_work(tmp_path):
    config = make_config(tmp_path)
    unit = make_plan(config, open_run_source(config).shards("train"))[0]
    with pytest.raises(RunFailedError, match="no creation weights"):
        make_generator(config).generate(unit, Attempt("a1"))


class Breaking:
    """A generator whose attempts at one unit fail as a whole."""

    def __init__(self, generator, is_bad, *, error=OSError("the disk is on fire")):  # noqa: B008
        self._generator, self._is_bad, self._error = generator, is_bad, error
        self.tried = Counter()

    def __getattr__(self, name):
        return getattr(self._generator, name)

    def generate(self, unit, attempt):
        self.tried[unit.unit_id] += 1
        if self._is_bad(unit):
            raise self._error
        return self._generator.generate(unit, attempt)


@pytest.mark.slow
def test_a_unit_that_cannot_be_made_is_committed_as_failed_after_its_attempts(tmp_path):
    config = make_config(tmp_path)
    store = prepare(config)
    generator = Breaking(
        make_generator(config),
        lambda unit: "train-000000-00" in unit.keys,
        error=RuntimeError("no kernel image"),
    )
    assert run_units(make_control(config), generator, store).kind == "finished"
    assert sorted(generator.tried.values()) == [1, 1, 1, 3]
    failed = [row for row in all_rows(config) if row.status == "failed"]
    assert {row.source_key for row in failed} == {"train-000000-00", "train-000000-01"}
    assert {row.error_class for row in failed} == {"RuntimeError"}


@pytest.mark.slow
def test_a_unit_that_the_disk_fails_stays_open_for_a_later_run(tmp_path):
    config = make_config(tmp_path)
    store = prepare(config)
    generator = Breaking(make_generator(config), lambda unit: "train-000000-00" in unit.keys)
    ended = run_units(make_control(config), generator, store)
    assert ended.kind == "failed"
    assert "disk is on fire" in ended.reason
    assert [row for row in all_rows(config) if row.status != "ok"] == []
    assert run_units(make_control(config), make_generator(config), store).kind == "finished"
    assert Counter(row.status for row in all_rows(config)) == {"ok": 8}


def test_a_run_whose_every_attempt_fails_stops(tmp_path):
    config = make_config(tmp_path)
    store = prepare(config)
    generator = Breaking(make_generator(config), lambda _: True)
    decision = run_units(make_control(config), generator, store)
    assert decision.kind == "failed"
    assert "disk is on fire" in decision.reason
    assert generator.tried.total() == 6


def test_the_circuit_breaker_opens_when_most_samples_fail(tmp_path, monkeypatch):
    def create(*_, **__):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(pipeline.make.images, "create_images", create)
    config = make_config(
        tmp_path, generation={"max_failed_fraction": 0.5, "failure_window_units": 2}
    )
    decision, _ = run_all(config)
    assert decision.kind == "failed"
    assert "RuntimeError (4)" in decision.reason
    assert len(all_commits(config)) == 2
