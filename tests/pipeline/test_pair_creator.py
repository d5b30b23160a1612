"""Creators that make images together with maps: from stage to rows, and where labels come from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from perception.diffusion.moments import MomentsCache
from pipeline.loop.local_runner import run_units
from pipeline.make.build import make_learned_creator
from pipeline.make.isolate import Failure, isolate
from pipeline.make.rows import ImageOrder
from runs.checks.splits import expect_known_labels
from schemas.errors import ConfigError, SampleError
from schemas.sample import CREATOR_MEMBERS, LABEL_MEMBERS
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.records.weights import read_manifest
from storage.samples.codecs import decode_label
from tests.kit.memory_source import MemorySource
from tests.kit.small_run import (
    all_rows,
    make_config,
    make_control,
    make_generator,
    make_sample,
    prepare,
    stored_members,
)
from tests.kit.tiny_models import tiny_backbone
from trainers.train_stage import train_stage_locally

KINDS = ("jointnet", "mtdiffusion")
STAGE = {"steps": 2, "batch_size": 4, "learning_rate": 1.0e-3, "ema_decay": 0.5}
LABEL, MAP = LABEL_MEMBERS["normals"], CREATOR_MEMBERS["normals"]

every_kind = pytest.mark.parametrize("kind", KINDS)


def pair_config(folder, kind="jointnet", known="pair", *, creator=None, training=None, **changes):
    start = {} if known == "pair" else {"t_start": 1000}
    return make_config(
        folder,
        creator={"kind": kind, "known": known, **start, **(creator or {})},
        training={"creator": STAGE | (training or {})},
        **changes,
    )


def generate(config):
    """Train the creator, make all units; returns rows and stored members by key."""
    store = prepare(config)
    train_stage_locally(config, "creator")
    creator = make_learned_creator(config, tiny_backbone())
    decision = run_units(make_control(config), make_generator(config, creator=creator), store)
    assert decision.kind == "finished"
    return all_rows(config), {key: parts for (_, key), parts in stored_members(config).items()}


def order(key: str, *, seed: int, labels=None) -> ImageOrder:
    sample = make_sample(key, seed=seed)
    if labels is not None:
        sample = replace(sample, labels=labels)
    return ImageOrder(source_shard="s", source=sample, caption="a bed", seed=seed)


def made_of(config, orders):
    creator = make_learned_creator(config, tiny_backbone())
    creator.network.eval()
    return creator(tiny_backbone(), orders, settings=config.creator, moments=MomentsCache())


def normals_of(parts, member):
    return decode_label(parts[member], "normals")


@pytest.mark.slow
@every_kind
def test_what_the_stage_publishes_makes_images_and_maps_beside_each_other(tmp_path, kind):
    config = pair_config(tmp_path, kind)
    rows, members = generate(config)
    manifest = read_manifest(open_store(config.run.url), 0, series="creator")
    assert {(r.status, r.creator, r.t_start, r.label_origin) for r in rows} == {
        ("ok", kind, 600, "creation")
    }
    assert {(r.creator_version, r.creator_hash) for r in rows} == {(0, manifest.sha256)}
    for row in rows:
        assert 0 <= json.loads(row.label_stats)["normals_agreement"] <= 1
        made = normals_of(members[row.key], MAP)
        assert np.linalg.norm(made, axis=2) == pytest.approx(1, abs=1e-3)
        assert not np.array_equal(made, normals_of(members[row.key], LABEL))


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("known", ["nothing", "pair", "labels"])
def test_image_and_map_depend_on_their_order_and_not_on_their_batch(tmp_path, kind, known):
    config = pair_config(tmp_path, kind, known)
    orders = [order(key, seed=i) for i, key in enumerate(("a", "bb"))]
    together = made_of(config, orders)
    assert together.images.shape == (2, *orders[0].source.image.shape)
    for i, each in enumerate(orders):
        single = made_of(config, [each])
        assert np.abs(single.images[0].astype(int) - together.images[i].astype(int)).max() <= 1
        np.testing.assert_allclose(
            single.maps["normals"][0], together.maps["normals"][i], atol=2e-2
        )


@pytest.mark.slow
def test_from_nothing_the_real_image_plays_no_part_but_its_size(tmp_path):
    config = pair_config(tmp_path, known="nothing")
    first = order("a", seed=1)
    other = replace(first, source=make_sample("b", seed=9))
    made, again = (made_of(config, [each]) for each in (first, other))
    assert np.array_equal(made.images, again.images)
    assert np.array_equal(made.maps["normals"][0], again.maps["normals"][0])


def test_labels_that_are_known_stay_as_they_are(tmp_path):
    config = pair_config(tmp_path, known="labels")
    orders = [order("a", seed=1), order("b", seed=2)]
    made = made_of(config, orders)
    for each, label in zip(orders, made.maps["normals"], strict=True):
        assert np.array_equal(label, each.source.labels["normals"])


@pytest.mark.slow
@pytest.mark.parametrize("known", ["pair", "labels"])
def test_a_real_image_without_its_label_fails_alone(tmp_path, known):
    config = pair_config(tmp_path, known=known)
    orders = [order("a", seed=1), order("b", seed=2, labels={})]
    with pytest.raises(SampleError, match="normals"):
        made_of(config, orders[1:])
    good, bad = isolate(orders, lambda batch: list(made_of(config, batch).images))
    assert good.shape == orders[0].source.image.shape
    assert isinstance(bad, Failure)
    assert bad.reason == "no_label"


def test_a_source_without_the_labels_is_refused(tmp_path):
    config, source = pair_config(tmp_path), MemorySource(2)
    expect_known_labels(config, source)
    method = config.method.model_copy(update={"tasks": ("semseg",)})
    lacking = config.model_copy(update={"method": method})
    with pytest.raises(ConfigError, match=r"creator\.known = pair.*creator\.known=nothing"):
        expect_known_labels(lacking, source)
    from_noise = config.creator.model_copy(update={"known": "nothing"})
    expect_known_labels(lacking.model_copy(update={"creator": from_noise}), source)


def angles_deg(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(axis=2), -1, 1)))


@pytest.mark.slow
def test_the_creators_maps_are_the_labels_where_they_are_chosen(tmp_path):
    rows, members = generate(pair_config(tmp_path, labelling={"origin": "creator"}))
    assert {row.label_origin for row in rows} == {"creator"}
    for row in rows:
        parts = members[row.key]
        label, made = normals_of(parts, LABEL), normals_of(parts, MAP)
        np.testing.assert_allclose(label, made, atol=0.01)  # eight bits, rounded once more
        assert list(json.loads(row.label_stats)) == ["normals_agreement"]


@pytest.mark.slow
def test_agreed_labels_are_valid_where_both_say_the_same(tmp_path):
    labelling = {"origin": "agreed", "max_disagreement_deg": 60.0}
    rows, members = generate(pair_config(tmp_path, labelling=labelling))
    good = [row for row in rows if row.status == "ok"]
    assert good
    for row in good:
        label, made = (normals_of(members[row.key], name) for name in (LABEL, MAP))
        is_valid = label.any(axis=2)
        share = json.loads(row.label_stats)["normals_agreement"]
        assert is_valid.mean() == pytest.approx(share, abs=1e-4)
        assert angles_deg(label, made)[is_valid].max() <= 60.5


@pytest.mark.slow
def test_given_labels_are_the_real_images_and_too_little_agreement_drops_a_sample(tmp_path):
    changes = {"labelling": {"origin": "given"}, "screening": {"min_agreement": 1.0}}
    config = pair_config(tmp_path, known="labels", **changes)
    rows, _ = generate(config)
    assert {(row.status, row.error_class) for row in rows} == {("filtered", "disagreeing_normals")}
    kept = pair_config(tmp_path, known="labels", labelling={"origin": "given"}, name="kept")
    rows, members = generate(kept)
    real = {
        sample.key: sample
        for shard in open_run_source(kept).shards("train")
        for sample in open_run_source(kept).read(shard)
    }
    for row in rows:
        label = normals_of(members[row.key], LABEL)
        np.testing.assert_allclose(label, real[row.source_key].labels["normals"], atol=1e-3)
