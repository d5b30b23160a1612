"""A run learns from the samples it began with, and never from those it is scored on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.make.caption import shards_without_captions
from runs.directory import claim_run_directory, resumed_config
from runs.generation import plan_of
from schemas.errors import SourceError
from schemas.run_layout import SPLITS_FILE
from schemas.sample import Sample
from sources.open import open_run_source
from sources.pinned import change_between
from storage.files.stores import open_store
from storage.records.captions import CaptionRow, write_captions
from storage.records.events import read_events
from storage.records.splits import read_splits
from tests.kit.photo_folder import config_of, save, scene, write_photos

LABELS = {"depth": {"pattern": "depth/{key}.png", "unit": "mm"}}
ACCEPTING = {"accept_additions": True}


def millimetres(made):
    return np.rint(made["depth"] * 1000).astype(np.uint16)


@pytest.fixture
def root(tmp_path):
    return write_photos(tmp_path / "photos", 8, depth=millimetres)


@pytest.fixture
def config(root):
    return config_of(root, LABELS)


@pytest.fixture
def store(config):
    return open_store(config.run.url)


def begin(store, config):
    """Begin a run and caption its images."""
    claim_run_directory(store, config)
    for shard in open_run_source(config).shards("train"):
        write_captions(store, shard.name, [CaptionRow(key, "a", "test") for key in shard.keys])


def add(root, *keys):
    for number, key in enumerate(keys):
        made = scene(100 + number)
        save(root / f"rgb/{key}.jpg", made["image"])
        save(root / f"depth/{key}.png", millimetres(made))


def keys_of(source, split):
    return [key for shard in source.shards(split) for key in shard.keys]


def refusal(store, config) -> str:
    with pytest.raises(SourceError) as caught:
        resumed_config(store, config)
    with pytest.raises(SourceError):
        claim_run_directory(store, config)
    return str(caught.value)


def test_the_same_source_goes_on(store, config):
    begin(store, config)
    noted = store.read_bytes(SPLITS_FILE)
    assert claim_run_directory(store, config) == config.noting_recipe()
    assert store.read_bytes(SPLITS_FILE) == noted
    assert list(read_events(store)) == []


def test_an_image_taken_out_is_named_and_no_test_image_is_learnt_from(store, config, root):
    begin(store, config)
    before = keys_of(open_run_source(config), "test")
    (root / "rgb/0000.jpg").unlink()
    said = refusal(store, config)
    assert "1 (0000) taken from train" in said
    assert "2 (0002, 0005) moved from test to train" in said
    assert "put the files and lists back, or choose another run.url" in said
    assert "accept_additions" not in said
    assert keys_of(open_run_source(config), "test") == before


def test_images_added_are_named_with_the_way_to_take_them(store, config, root):
    begin(store, config)
    add(root, "0008", "0009", "0010")
    said = refusal(store, config)
    assert "2 (0009, 0010) added to train; 1 (0008) added to test" in said
    assert "source.accept_additions=true" in said


def test_accepted_additions_are_learnt_from_and_nothing_else_changes(store, config, root):
    begin(store, config)
    source, plan = open_run_source(config), plan_of(config)
    add(root, "0008", "0009", "0010")
    accepting = claim_run_directory(store, config_of(root, LABELS, **ACCEPTING))
    grown = open_run_source(accepting)
    assert keys_of(grown, "test") == keys_of(source, "test")
    assert keys_of(grown, "train") == [*keys_of(source, "train"), "0009", "0010"]
    assert [unit for unit in plan_of(accepting) if unit in plan] == list(plan)
    (event,) = [one for one in read_events(store) if one["event"] == "source_changed"]
    assert "2 (0009, 0010) added to train" in event["change"]
    (added,) = shards_without_captions(store, grown.shards("train"))
    assert [type(one) for one in grown.read(added)] == [Sample, Sample]
    assert claim_run_directory(store, accepting) == accepting


def test_additions_that_shift_the_splits_are_not_accepted(store, config, root):
    begin(store, config)
    add(root, "0000b")
    said = refusal(store, config_of(root, LABELS, **ACCEPTING))
    assert "moved from test to train" in said


def test_a_run_that_has_made_nothing_takes_the_source_as_it_is(store, config, root):
    claim_run_directory(store, config)
    (root / "rgb/0000.jpg").unlink()
    claim_run_directory(store, config)
    assert keys_of(open_run_source(config), "train") == ["0001", "0002", "0004", "0005", "0007"]


def test_a_run_that_noted_no_splits_notes_them_at_its_next_start(store, config, root):
    begin(store, config)
    store.remove_file(SPLITS_FILE)
    claim_run_directory(store, config)
    (root / "rgb/0000.jpg").unlink()
    assert "taken from train" in refusal(store, config)


def test_a_sample_that_vanishes_during_a_run_costs_its_own_row(store, config, root):
    begin(store, config)
    (root / "rgb/0007.jpg").unlink()
    source = open_run_source(config)
    (shard,) = source.shards("train")
    found = {one.key: one for one in source.read(shard)}
    assert found["0007"].reason == "key_missing"
    assert isinstance(found["0006"], Sample)


def test_a_list_of_splits_that_cannot_be_read_says_what_to_do(store, config):
    begin(store, config)
    store.write_bytes(SPLITS_FILE, b"?")
    assert "remove it if the source is what it was" in refusal(store, config)


def describe_otherwise(config, **fields):
    path = Path(config.source.description)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))


def test_a_description_that_reads_the_files_otherwise_is_refused_by_its_fields(store, config):
    begin(store, config)
    labels = {"depth": LABELS["depth"] | {"unit": "cm"}}
    describe_otherwise(config, labels=labels, size=[16, 16], name="renamed")
    said = refusal(store, config)
    assert "labels.depth.unit: there absent, now cm" in said
    assert "size: there [32, 32], now [16, 16]" in said
    assert "name" not in said.split("began:")[1]
    assert "put the files and description back, or choose another run.url" in said


def test_defaults_that_are_spelled_out_are_no_change(root):
    labels = {"depth": {"pattern": "depth/{key}.png"}}
    config = config_of(root, labels)
    store = open_store(config.run.url)
    begin(store, config)
    describe_otherwise(config, labels=LABELS)
    claim_run_directory(store, config)


def test_labels_that_were_replaced_are_named(store, config, root):
    begin(store, config)
    save(root / "depth/0001.png", millimetres(scene(50))[:, ::-1] // 7)
    assert "labels or images changed: 1 (0001) in train" in refusal(store, config)


def test_images_that_changed_places_are_named(store, config, root):
    begin(store, config)
    one, other = (root / f"rgb/{key}.jpg" for key in ("0002", "0004"))
    before, after = one.read_bytes(), other.read_bytes()
    assert len(before) != len(after)
    one.write_bytes(after)
    other.write_bytes(before)
    said = refusal(store, config_of(root, LABELS, **ACCEPTING))
    assert "1 (0004) in train" in said
    assert "1 (0002) in test" in said


def test_a_list_of_splits_without_signs_is_read_and_gets_them(store, config, root):
    begin(store, config)
    splits = read_splits(store)
    whole = pq.read_table(io.BytesIO(store.read_bytes(SPLITS_FILE)))
    buffer = io.BytesIO()
    pq.write_table(whole.drop_columns("files").replace_schema_metadata(None), buffer)
    store.write_bytes(SPLITS_FILE, buffer.getvalue())
    claim_run_directory(store, config)
    assert read_splits(store) == splits
    save(root / "depth/0001.png", millimetres(scene(50))[:, ::-1] // 7)
    assert "1 (0001) in train" in refusal(store, config)


def test_keys_that_come_in_several_shards_are_told_apart():
    began = {"train": {"a": ("0", "1"), "b": ("0",)}, "test": {"c": ("0",)}}
    now = {"train": {"a": ("0", "1")}, "test": {"c": ("0", "1")}}
    change = change_between(began, now)
    assert dict(change.taken) == {"train": ["0"]}
    assert dict(change.added) == {"test": ["1"]}
    assert not change_between(began, began)


def with_classes(root, regime, **more):
    """A run on depth and classes, of which each image has one."""
    for image in sorted((root / "rgb").iterdir()):
        save(root / f"classes/{image.stem}.png", scene(int(image.stem))["ids"])
    classes = {"pattern": "classes/{key}.png", "num_classes": 3}
    config = config_of(root, {**LABELS, "semseg": classes}, **more)
    tree = config.model_dump(mode="json")
    tree["source"]["labels"] = {"regime": regime, "tasks": ["depth", "semseg"]}
    tree["method"] |= {"tasks": ["depth", "semseg"], "num_classes": 3}
    return type(config).model_validate(tree)


def labels_read(source):
    (shard, *_) = source.shards("train")
    return {sample.key: set(sample.labels) for sample in source.read(shard)}


def test_images_added_while_a_run_goes_on_give_no_image_a_label_that_was_left_out(store, root):
    config = with_classes(root, "one")
    begin(store, config)
    assert {len(labels) for labels in labels_read(open_run_source(config)).values()} == {1}
    add(root, "0008", "0009", "0010")
    with_classes(root, "one")
    with pytest.raises(SourceError, match=r"source\.labels: .* other labels would be learnt from"):
        open_run_source(config)
    assert "added to train" in refusal(store, config)


def test_random_labels_stay_when_images_are_added(store, root):
    config = with_classes(root, "random", **ACCEPTING)
    begin(store, config)
    before = labels_read(open_run_source(config))
    add(root, "0008", "0009", "0010")
    with_classes(root, "random")
    claim_run_directory(store, config)
    source = open_run_source(config)
    assert labels_read(source) == before
    assert keys_of(source, "train")[-2:] == ["0009", "0010"]


def test_a_run_that_has_made_nothing_may_deal_otherwise(store, root):
    config = with_classes(root, "one")
    claim_run_directory(store, config)
    labels = config.source.labels.model_copy(update={"seed": 1})
    source = config.source.model_copy(update={"labels": labels})
    assert open_run_source(config.model_copy(update={"source": source}))
