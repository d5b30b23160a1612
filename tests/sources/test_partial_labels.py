"""Labels that are left out: how they are dealt, and that they never reach training."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from schemas.config_source import LabelsSection, RoomsSource
from schemas.errors import ConfigError
from schemas.sample import INVALID_VALUES, TASK_KINDS, Sample
from sources.mixture import Mixture
from sources.open import open_source
from sources.partial_labels import PartialLabels, deal_one, deal_random
from sources.pinned import PinnedSource, keys_of
from sources.rooms import ROOM_TASKS
from sources.rooms import RoomsSource as WholeRooms
from sources.streams import RealStream
from sources.traces import changes_between, record_of

KEYS = [f"image_{number:04d}" for number in range(1003)]
ALL = dict.fromkeys(KEYS, ROOM_TASKS)


GOLDEN_ONE = {
    "image_0000": ("semseg",),
    "image_0001": ("normals",),
    "image_0002": ("depth",),
    "image_0003": ("normals",),
}
GOLDEN_RANDOM = {
    "image_0000": ("semseg",),
    "image_0001": ("normals",),
    "image_0002": ("normals", "semseg"),
    "image_0003": ("normals",),
}


def open_rooms(tasks=ROOM_TASKS, num_labelled: int = 20, dealt=ROOM_TASKS, **labels):
    section = LabelsSection(tasks=dealt, **labels)
    counts = {"num_labelled": num_labelled, "num_validation": 2, "num_test": 2}
    return open_source(RoomsSource(labels=section, **counts), tasks)


def read_labels(source, split="train") -> dict[str, set[str]]:
    """Key to the tasks of the labels that are read."""
    samples = [found for shard in source.shards(split) for found in source.read(shard)]
    assert all(isinstance(found, Sample) for found in samples)
    return {sample.key: set(sample.labels) for sample in samples}


def write_list(tmp_path, tree) -> str:
    file = tmp_path / "list.json"
    file.write_text(json.dumps(tree))
    return str(file)


class TestDeal:
    """Who gets which label."""

    def test_of_one_label_an_image_all_tasks_get_as_many(self):
        deal = deal_one(ALL, ROOM_TASKS, 0)
        assert {len(tasks) for tasks in deal.values()} == {1}
        counts = Counter(task for tasks in deal.values() for task in tasks)
        assert sorted(counts.values()) == [200, 200, 201, 201, 201]

    def test_images_that_lack_a_task_get_another_and_the_counts_stay_even(self):
        parts = ("semseg", "human_parts", "saliency", "normals", "boundaries")
        without = tuple(task for task in parts if task != "human_parts")
        there = {key: without if number % 3 else parts for number, key in enumerate(KEYS)}
        deal = deal_one(there, parts, 0)
        assert all(set(tasks) <= set(there[key]) for key, tasks in deal.items())
        counts = Counter(task for tasks in deal.values() for task in tasks)
        assert max(counts.values()) - min(counts.values()) <= 1

    def test_an_image_without_any_of_the_tasks_gets_none(self):
        there = {"a": ("depth",), "b": ("human_parts",)}
        for deal in (deal_one, deal_random):
            assert deal(there, ("depth", "normals"), 0) == {"a": ("depth",), "b": ()}

    def test_random_labels_are_never_all_and_never_none_and_half_of_them_on_average(self):
        deal = deal_random(ALL, ROOM_TASKS, 0)
        sizes = Counter(len(tasks) for tasks in deal.values())
        assert set(sizes) == {1, 2, 3, 4}
        # A quarter of 1003 each, four deviations wide.
        assert all(abs(count - 1003 / 4) < 4 * (1003 * 3 / 16) ** 0.5 for count in sizes.values())
        for task in ROOM_TASKS:
            share = sum(task in tasks for tasks in deal.values()) / len(deal)
            assert abs(share - 0.5) < 4 * 0.5 / 1003**0.5

    def test_every_subset_of_a_size_is_as_likely(self):
        three = dict.fromkeys(KEYS, ("normals", "depth", "semseg"))
        counts = Counter(deal_random(three, ("normals", "depth", "semseg"), 1).values())
        assert len(counts) == 6
        assert all(abs(count - 1003 / 6) < 4 * (1003 * 5 / 36) ** 0.5 for count in counts.values())

    @pytest.mark.parametrize("deal", [deal_one, deal_random])
    def test_it_depends_on_the_seed_and_not_on_any_order(self, deal):
        turned = dict(reversed(ALL.items()))
        assert deal(turned, ROOM_TASKS[::-1], 0) == deal(ALL, ROOM_TASKS, 0)
        assert deal(ALL, ROOM_TASKS, 1) != deal(ALL, ROOM_TASKS, 0)

    def test_it_is_the_same_on_every_machine(self):
        few = dict.fromkeys(KEYS[:4], ("normals", "depth", "semseg"))
        assert deal_one(few, ("normals", "depth", "semseg"), 0) == GOLDEN_ONE
        assert deal_random(few, ("normals", "depth", "semseg"), 0) == GOLDEN_RANDOM


class TestSource:
    """A source with labels left out."""

    def test_with_all_labels_it_is_the_source_itself(self):
        assert isinstance(open_rooms(), WholeRooms)
        assert isinstance(open_rooms(regime="one"), PartialLabels)

    def test_training_images_have_the_dealt_labels_and_all_other_splits_all(self):
        source = open_rooms(regime="one")
        train = read_labels(source)
        assert len(train) == 20
        assert {len(tasks) for tasks in train.values()} == {1}
        assert set.union(*train.values()) == set(ROOM_TASKS)
        for split in ("validation", "test"):
            assert all(tasks == set(ROOM_TASKS) for tasks in read_labels(source, split).values())
        shard = source.shards("unlabelled")[0]
        (free,) = source.read(shard, shard.keys[:1])
        assert set(free.labels) == set(ROOM_TASKS)

    def test_what_it_says_of_labels_is_what_is_read(self):
        for labels in ({"regime": "one"}, {"regime": "random"}, {}):
            source = open_rooms(**labels)
            for split in ("train", "test"):
                told = {
                    key: set(source.tasks_of(shard, key))
                    for shard in source.shards(split)
                    for key in shard.keys
                }
                assert told == read_labels(source, split)

    @pytest.mark.parametrize("regime", ["one", "random"])
    def test_a_run_of_one_task_sees_its_own_share_of_the_same_deal(self, regime):
        together = read_labels(open_rooms(regime=regime))
        for task in ROOM_TASKS:
            alone = read_labels(open_rooms((task,), regime=regime))
            assert alone == {key: tasks & {task} for key, tasks in together.items()}

    @pytest.mark.parametrize("regime", ["one", "random"])
    def test_fewer_images_have_the_labels_that_they_have_among_more(self, regime):
        seed = 3  # Of which each task is among the ten images.
        more = read_labels(open_rooms(regime=regime, num_labelled=40, seed=seed))
        fewer = read_labels(open_rooms(regime=regime, num_labelled=20, seed=seed))
        assert fewer.items() <= more.items()

    def test_images_that_have_no_label_left_can_be_left_out(self):
        whole = read_labels(open_rooms(("depth",), regime="one"))
        source = open_rooms(("depth",), regime="one", drops_unlabelled=True)
        assert read_labels(source) == {key: tasks for key, tasks in whole.items() if tasks}
        assert 0 < len(read_labels(source)) < 20
        assert len(read_labels(source, "test")) == 2

    def test_a_list_names_the_labels_and_an_image_that_it_lacks_has_none(self, tmp_path):
        first, second, *_ = read_labels(open_rooms(num_labelled=3))
        file = write_list(tmp_path, {first: ["depth"], second: ["normals", "depth"]})
        source = open_rooms(("normals", "depth"), 3, regime="file", file=file)
        assert [*read_labels(source).values()] == [{"depth"}, {"normals", "depth"}, set()]

    def test_a_list_may_name_images_that_are_not_used_or_not_learnt_from(self, tmp_path):
        source = open_rooms(num_labelled=3)
        others = [keys[0] for keys in (s.keys for s in source.shards("unlabelled"))]
        others += [source.shards("test")[0].keys[0]]
        used = source.shards("train")[0].keys[0]
        file = write_list(tmp_path, {key: ["depth"] for key in [used, *others]})
        assert open_rooms(("depth",), 3, regime="file", file=file)

    def test_a_list_that_changed_is_another_source(self, tmp_path):
        key = next(iter(read_labels(open_rooms(num_labelled=3))))
        file = write_list(tmp_path, {key: ["depth", "normals"]})
        began = record_of(open_rooms(("depth",), 3, regime="file", file=file))
        assert not changes_between(
            began, record_of(open_rooms(("depth",), 3, regime="file", file=file))
        )
        write_list(tmp_path, {key: ["depth"]})
        change = changes_between(
            began, record_of(open_rooms(("depth",), 3, regime="file", file=file))
        )
        assert "labels.file: there " in change.describe()

    def test_a_source_held_to_its_splits_leaves_out_the_same(self):
        source = open_rooms(regime="random")
        assert read_labels(PinnedSource(source, keys_of(source))) == read_labels(source)


class TestTraining:
    """What a training step sees."""

    def test_a_label_that_is_left_out_is_invalid_everywhere_in_every_batch(self):
        source = open_rooms(regime="one")
        kept = read_labels(source)
        batches = Mixture(
            RealStream(source, seed=0), real_fraction=1.0, batch_size=5, tasks=ROOM_TASKS
        )
        for _ in range(8):
            batch = next(batches)
            for task, label in batch.labels.items():
                is_invalid = (label == INVALID_VALUES[TASK_KINDS[task]]).flatten(1).all(dim=1)
                assert is_invalid.tolist() == [task not in kept[key] for key in batch.keys]

    def test_images_and_their_order_are_those_of_all_labels(self):
        streams = [RealStream(open_rooms(**each), seed=0) for each in ({}, {"regime": "one"})]
        for _ in range(25):
            whole, part = (next(stream) for stream in streams)
            assert whole.key == part.key
            assert torch.equal(torch.tensor(whole.image), torch.tensor(part.image))


class TestRefusals:
    """What is refused before anything is loaded."""

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            ({"regime": "one", "tasks": []}, r"regime = one, tasks = \[\]: wanted at least 2"),
            ({"regime": "random", "tasks": ["depth"]}, r"tasks = \['depth'\]: wanted at least 2"),
            ({"regime": "one", "tasks": ["depth", "depth"]}, "depth is given twice"),
            ({"regime": "file"}, "file = None: the list is read where regime is file"),
            ({"regime": "full", "file": "a.json"}, "give both or neither"),
        ],
    )
    def test_a_section_that_says_too_little_or_too_much(self, labels, words):
        with pytest.raises(ValueError, match=words):
            LabelsSection(**labels)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("{", r"source\.labels\.file = .*: wanted JSON, found .*; write \{"),
            ('["depth"]', "wanted a list of tasks for each key; write"),
            ('{"a": "depth"}', "wanted a list of tasks for each key"),
            ('{"a": ["dept"]}', "'a': unknown task 'dept'; known: normals, depth"),
            ('{"a": ["depth"]}', r"1 of 1 keys are not in source rooms, such as 'a' \(found keys"),
            ("{}", r"nobody labels depth in the 3 images of train; name such labels in the list"),
        ],
    )
    def test_a_list_that_cannot_be_used(self, tmp_path, content, words):
        file = tmp_path / "list.json"
        file.write_text(content)
        with pytest.raises(ConfigError, match=words):
            open_rooms(("depth",), 3, regime="file", file=str(file))

    def test_a_list_that_is_not_there(self, tmp_path):
        with pytest.raises(ConfigError, match=r"source\.labels\.file = .*gone.*: no such file"):
            open_rooms(("depth",), 3, regime="file", file=str(tmp_path / "gone.json"))

    def test_a_task_that_nobody_labels(self):
        with pytest.raises(ConfigError, match=r"labels\.tasks = .*: nobody labels saliency of me"):
            open_rooms(("depth", "saliency"), dealt=("depth", "normals"), regime="one")
        with pytest.raises(ConfigError, match=r"no training image has a label of human_parts"):
            open_rooms(("depth",), dealt=("depth", "human_parts"), regime="one")
        with pytest.raises(ConfigError, match=r"nobody labels .* in the 1 images of train; use mo"):
            open_rooms(regime="one", num_labelled=1)

    def test_a_deal_that_additions_would_change(self, tmp_path):
        from schemas.config_source import FolderSource

        labels = LabelsSection(regime="one", tasks=("depth", "normals"))
        with pytest.raises(ValueError, match=r"accept_additions = true, labels\.regime = one"):
            FolderSource(description="a.yaml", labels=labels, accept_additions=True)
        alike = labels.model_copy(update={"regime": "random"})
        assert FolderSource(description="a.yaml", labels=alike, accept_additions=True)
