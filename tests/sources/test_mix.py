"""Several sources as one multi-task training set."""

from __future__ import annotations

import pathlib
from collections import Counter

import numpy as np
import pytest
import torch
import yaml

from evaluation.predict_source import Scoring, iterate_batches
from schemas.config_source import MixSource
from schemas.errors import ConfigError
from schemas.sample import IGNORE_ID, Sample, UnreadableSample
from sources.mixture import Mixture
from sources.open import open_source
from sources.parts import parts_of
from sources.pinned import PinnedSource, keys_of
from sources.streams import RealStream
from sources.traces import changes_between, record_of
from tests.kit.folder_files import png, write_folder

TASKS = ("depth", "semseg")


@pytest.fixture
def members(tmp_path) -> list[dict]:
    """Two folders of ten images with the same keys: one with depth, one with classes."""
    found = []
    for name, task in (("near", "depth"), ("far", "semseg")):
        tree = write_folder(tmp_path / name)
        tree["labels"] = {task: tree["labels"][task]}
        tree["splits"]["test"] = {"hold_out": {"every": 5}}
        tree["splits"]["validation"] = {"hold_out": {"every": 4}}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(tree))
        source = {"kind": "folder", "description": str(file)}
        found.append({"name": name, "source": source, "tasks": [task]})
    png(tmp_path / "far/class/0000.png", np.arange(192, dtype=np.uint8).reshape(12, 16) % 6)
    return found


def describe(member: dict, **changes) -> None:
    """Change fields of a member's description."""
    file = member["source"]["description"]
    with pathlib.Path(file).open() as text:
        tree = yaml.safe_load(text)
    for name, value in changes.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    with pathlib.Path(file).open("w") as text:
        yaml.safe_dump(tree, text)


def open_mix(members, tasks=TASKS, **options):
    return open_source(MixSource.model_validate({"members": members}), tasks, **options)


def read_split(source, split="train") -> list[Sample]:
    found = [each for shard in source.shards(split) for each in source.read(shard)]
    assert all(isinstance(each, Sample) for each in found)
    return found


def test_every_split_is_that_of_all_members_and_each_image_has_its_members_labels(members):
    source = open_mix(members)
    assert source.image_size == (6, 6)
    assert source.num_classes == 5
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        samples = read_split(source, split)
        assert len(samples) == 2 * count
        assert [sample.key for sample in samples] == [
            key for shard in source.shards(split) for key in shard.keys
        ]
        assert {(sample.key[:4], *sample.labels) for sample in samples} == {
            ("near", "depth"),
            ("far_", "semseg"),
        }


def test_keys_and_shards_of_two_members_differ_where_their_own_are_the_same(members):
    source = open_mix(members)
    shards = [shard for split in ("train", "test") for shard in source.shards(split)]
    keys = [key for shard in shards for key in shard.keys]
    names = [shard.name for shard in source.shards("train")]
    assert "near_0000" in keys
    assert "far_0000" in keys
    assert len(set(keys)) == len(keys)
    assert names == ["near_train-000000", "far_train-000000"]


def test_a_sample_is_that_of_its_member(members):
    section = MixSource.model_validate({"members": members}).members[1].source
    plain = open_source(section, ["semseg"])
    (own,) = plain.read(plain.shards("train")[0], ["0000"])
    source = open_mix(members)
    mixed, gone = source.read(source.shards("train")[1], ["far_0000", "far_none"])
    assert mixed.key == "far_0000"
    np.testing.assert_array_equal(mixed.image, own.image)
    np.testing.assert_array_equal(mixed.labels["semseg"], own.labels["semseg"])
    assert isinstance(gone, UnreadableSample)
    assert (gone.key, gone.reason) == ("far_none", "key_missing")


def test_classes_are_mapped_and_those_of_255_are_ignored(members):
    plain = read_split(open_mix(members))
    members[1]["class_map"] = {0: 7, 1: 2, 2: 2, 3: 255, 4: 0}
    source = open_mix(members)
    assert source.num_classes == 8
    table = np.array([7, 2, 2, 255, 0, *range(5, 256)], np.uint8)
    for sample, before in zip(read_split(source), plain, strict=True):
        if "semseg" in before.labels:
            np.testing.assert_array_equal(sample.labels["semseg"], table[before.labels["semseg"]])


def test_what_a_member_does_not_label_is_invalid_in_training_and_not_counted_in_scoring(members):
    source = open_mix(members)
    batches = Mixture(RealStream(source, seed=0), real_fraction=1.0, batch_size=6, tasks=TASKS)
    scoring = Scoring(tasks=TASKS, num_classes=5, batch_size=8)
    tests = list(iterate_batches(source, "test", scoring))
    for batch in (next(batches), next(batches), *tests):
        for number, key in enumerate(batch.keys):
            is_near = key.startswith("near")
            assert bool((batch.labels["depth"][number] > 0).any()) == is_near
            assert bool((batch.labels["semseg"][number] == IGNORE_ID).all()) == is_near
    board = scoring.board()
    for batch in tests:
        wrong = {"depth": torch.where(batch.labels["depth"] > 0, batch.labels["depth"], 9.0)}
        classes = torch.where(batch.labels["semseg"] == IGNORE_ID, 1, batch.labels["semseg"])
        board.update({**wrong, "semseg": classes}, batch.labels)
    scores = board.compute()
    assert scores["depth"]["rmse_m"] == 0
    assert scores["semseg"]["miou"] == 1


def test_a_run_of_one_task_may_leave_out_the_members_without_it(members):
    members[1]["source"]["labels"] = {"drops_unlabelled": True}
    source = open_mix(members, ("depth",))
    assert {sample.key[:5] for sample in read_split(source)} == {"near_"}


def test_a_member_may_deal_its_own_labels(members):
    for member in members:
        describe(member, labels={"saliency": {"pattern": "salient/{key}.png"}})
    members[0]["tasks"].append("saliency")
    members[0]["source"]["labels"] = {"regime": "one", "tasks": ["depth", "saliency"]}
    source = open_mix(members, ("depth", "semseg", "saliency"))
    labels = Counter(tuple(sample.labels) for sample in read_split(source))
    assert labels[("semseg",)] == 6
    assert set(labels) == {("semseg",), ("depth",), ("saliency",)}
    tested = [tuple(sample.labels) for sample in read_split(source, "test")]
    assert tested == [("depth", "saliency")] * 2 + [("semseg",)] * 2


def test_a_run_notes_the_files_and_descriptions_of_all_members(members, tmp_path):
    began = record_of(open_mix(members))
    assert {"near_0000", "far_0000"} <= began.signs.keys()
    png(tmp_path / "far/class/0001.png", np.arange(192, dtype=np.uint8).reshape(12, 16) % 5)
    describe(members[0], labels={"depth": {"pattern": "depth/{key}.png", "unit": "cm"}})
    change = changes_between(began, record_of(open_mix(members))).describe()
    assert "labels or images changed: 1 (far_0001) in train" in change
    assert "near: labels.depth.unit: there absent, now cm" in change


def test_a_mix_held_to_its_splits_reads_the_same(members):
    source = open_mix(members)
    pinned = PinnedSource(source, keys_of(source))
    for one, other in zip(read_split(pinned), read_split(source), strict=True):
        assert one.key == other.key
        assert set(one.labels) == set(other.labels)
    shard = pinned.shards("train")[1]
    assert pinned.tasks_of(shard, shard.keys[0]) == ("semseg",)
    assert [part.prefix for part in parts_of(pinned)] == ["near_", "far_"]


@pytest.mark.parametrize(
    ("class_map", "words"),
    [
        ({0: 0, 1: 1}, r"far: class_map: 3 of 5 classes do not map, such as 2, 3, 4; say which"),
        ({**{i: i for i in range(5)}, 9: 1}, r"class_map: 9 is no class of this member"),
        ({**{i: i for i in range(5)}, 255: 1}, r"255 means ignored and cannot become class 1"),
    ],
)
def test_classes_that_do_not_map_are_refused(members, class_map, words):
    members[1]["class_map"] = class_map
    with pytest.raises(ConfigError, match=words):
        open_mix(members)


def test_two_sets_of_classes_want_a_map(members):
    describe(members[0], labels={"semseg": {"pattern": "class/{key}.png", "num_classes": 9}})
    members[0]["tasks"].append("semseg")
    with pytest.raises(ConfigError, match=r"found near 9, far 5 of them; say with class_map"):
        open_mix(members)
    members[0]["class_map"] = {i: i % 5 for i in range(9)}
    assert open_mix(members).num_classes == 5


def test_more_classes_than_the_predictor_has_are_refused(members):
    with pytest.raises(ConfigError, match=r"set method\.num_classes=5"):
        open_mix(members, num_classes=4)


def test_images_of_several_sizes_are_refused_with_what_to_do(members):
    describe(members[1], size=[6, 8])
    with pytest.raises(
        ConfigError, match=r"found near 6 x 6, far 6 x 8 \(height x width\); convert .*set size:"
    ):
        open_mix(members)


def test_a_task_that_no_member_labels_is_refused(members):
    with pytest.raises(ConfigError, match=r"source\.members: nobody labels normals of method\.ta"):
        open_mix(members, ("depth", "normals"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda members: members.pop(), "at least 2"),
        (lambda members: members[0].update(name="far"), "far is given twice"),
        (lambda members: members[0].update(name="a_b"), "name"),
        (lambda members: members[0].update(source={"kind": "mix", "members": []}), "mix"),
        (
            lambda members: members[0]["source"].update(accept_additions=True),
            "a mix takes no additions",
        ),
    ],
)
def test_members_that_are_none_are_refused(members, change, words):
    change(members)
    with pytest.raises(ValueError, match=words):
        MixSource.model_validate({"members": members})
