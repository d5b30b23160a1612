"""Real images whose missing labels are predicted, and whose true labels stay."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.loop.local_runner import run_units
from runs.checks.splits import expect_gaps
from schemas.errors import ConfigError
from schemas.sample import LABEL_MEMBERS, Sample
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.samples.codecs import decode_sample
from tests.kit.rooms_source import rooms_section, write_rooms
from tests.kit.small_run import (
    all_rows,
    make_config,
    make_control,
    make_generator,
    make_sample,
    prepare,
    publish,
    stored_members,
)

TASKS = ["normals", "depth"]
ONE = {"regime": "one", "tasks": TASKS}


def make_completion(tmp_path, *, labels: dict = ONE, plan: dict | None = None):
    """A run over eight images with normals and depth, of which one label each is left."""
    shards = {}
    for number, name in enumerate(("train-000000", "train-000001")):
        samples = [make_sample(f"{name}-{i:02d}", seed=10 * number + i) for i in range(4)]
        shards[name] = [with_depth(sample, i + 1.5) for i, sample in enumerate(samples)]
    write_rooms(tmp_path / "rooms", shards)
    source = {**rooms_section(tmp_path / "rooms", train=8), "labels": labels}
    return make_config(
        tmp_path,
        source=source,
        method={"tasks": TASKS},
        creator={"kind": "completion"},
        plan=plan or {},
    )


def with_depth(sample: Sample, metres: float) -> Sample:
    depth = np.full(sample.image.shape[:2], metres, np.float32)
    depth[:4] = 0
    return Sample(
        key=sample.key,
        image=sample.image,
        labels={**sample.labels, "depth": depth},
        caption=sample.caption,
    )


def generate(config):
    store = prepare(config)
    assert run_units(make_control(config), make_generator(config), store).kind == "finished"
    return store


def real_samples(config) -> dict[str, Sample]:
    source = open_run_source(config)
    found = (one for shard in source.shards("train") for one in source.read(shard))
    return {sample.key: sample for sample in found}


def test_each_image_is_the_real_one_with_its_true_label_and_the_others_predicted(tmp_path):
    config = make_completion(tmp_path)
    generate(config)
    real = real_samples(config)
    rows = {row.key: row for row in all_rows(config)}
    made = {key: decode_sample(key, m) for (_, key), m in stored_members(config).items()}
    assert len(made) == len(real) == 8
    for key, sample in made.items():
        truth = real[rows[key].source_key]
        ((task, label),) = truth.labels.items()
        np.testing.assert_array_equal(sample.image, truth.image)
        np.testing.assert_allclose(sample.labels[task], label, atol=1e-3)
        assert set(sample.labels) == set(TASKS)
        assert set(sample.reliability) == set(TASKS) - {task}
        assert sample.is_synthetic


def test_rows_and_samples_say_which_label_is_true(tmp_path):
    config = make_completion(tmp_path)
    generate(config)
    real = real_samples(config)
    kept = {key: list(sample.labels) for key, sample in real.items()}
    members = stored_members(config)
    for row in all_rows(config):
        assert (row.creator, row.t_start, row.steps) == ("completion", 0, 0)
        assert row.label_kind == "mixed"
        assert json.loads(row.extra) == {"true_labels": kept[row.source_key]}
        stored = json.loads(members[row.round, row.key]["json"])
        assert stored["true_labels"] == kept[row.source_key]
        (predicted,) = set(TASKS) - set(kept[row.source_key])
        assert [*json.loads(row.label_stats)] == [f"{predicted}_confidence"]


def test_labelling_again_keeps_the_bytes_of_true_labels_and_renews_the_others(tmp_path):
    config = make_completion(tmp_path, plan={"rounds": 2})
    store = prepare(config)
    control, generator = make_control(config), make_generator(config)
    run_units(control, generator, store)
    publish(config, 1, seen_images=100, shift=0.05)
    outcome = run_units(control, generator, store)
    assert outcome.kind == "finished"
    members = stored_members(config)
    keys = {key for _, key in members}
    true = {row.key: json.loads(row.extra)["true_labels"] for row in all_rows(config)}
    renewed = 0
    for key in keys:
        first, again = members[0, key], members[1, key]
        for task in TASKS:
            name = LABEL_MEMBERS[task]
            if task in true[key]:
                assert first[name] == again[name]
            else:
                renewed += first[name] != again[name]
        assert first["image.png"] == again["image.png"]
    assert renewed


def test_a_label_without_a_valid_pixel_is_predicted(tmp_path):
    shards = {
        "train-000000": [
            with_depth(make_sample("train-000000-00", seed=1), 0.0),
            with_depth(make_sample("train-000000-01", seed=2), 2.0),
        ]
    }
    write_rooms(tmp_path / "rooms", shards)
    config = make_config(
        tmp_path,
        source=rooms_section(tmp_path / "rooms", train=2),
        method={"tasks": TASKS},
        creator={"kind": "completion"},
    )
    generate(config)
    true = {row.source_key[-1]: json.loads(row.extra)["true_labels"] for row in all_rows(config)}
    assert true == {"0": ["normals"], "1": TASKS}


def test_captions_are_not_needed(tmp_path):
    config = make_completion(tmp_path)
    publish(config, 0)
    store = open_store(config.run.url)
    assert run_units(make_control(config), make_generator(config), store).kind == "finished"
    assert {row.status for row in all_rows(config)} == {"ok"}


def test_nothing_to_complete_and_copies_are_refused(tmp_path):
    whole = make_completion(tmp_path, labels={})
    with pytest.raises(ConfigError, match=r"all 8 training images have labels of all .*source\.l"):
        expect_gaps(whole, open_run_source(whole))
    tree = whole.model_dump()
    tree["plan"]["variants"] = 2
    with pytest.raises(ValueError, match=r"plan\.variants = 2: creator\.kind = completion takes"):
        type(whole).model_validate(tree)
