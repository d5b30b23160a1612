"""A user's own folder: what it gives, and what it says when something is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from schemas.config_source import FolderSource as FolderConfig
from schemas.errors import ConfigError, SourceError
from schemas.sample import TASKS
from sources.folder import FolderSource
from sources.folder_description import load_description
from sources.open import open_source
from tests.kit.folder_files import (
    HEIGHT,
    WIDTH,
    open_folder,
    png,
    read_all,
    write_folder,
    write_sample,
)


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "photographs"


@pytest.fixture
def tree(root) -> dict:
    return write_folder(root)


def keys_of(source: FolderSource, split) -> list[str]:
    return [key for shard in source.shards(split) for key in shard.keys]


def error_of(tree: dict, tmp_path: Path, **config) -> str:
    with pytest.raises(SourceError) as caught:
        open_folder(tree, tmp_path, **config)
    return str(caught.value)


def test_samples_come_decoded_resized_and_in_list_order(tree, tmp_path):
    source = open_folder(tree, tmp_path)
    samples = read_all(source)
    assert [sample.key for sample in samples] == [f"{i:04d}" for i in range(10)]
    first = samples[0]
    assert first.image.shape == (6, 6, 3)
    np.testing.assert_allclose(first.labels["normals"][3, 3], [0, 1, 0], atol=0.01)
    assert (first.labels["depth"] == np.float32(2.5)).all()
    assert (first.labels["semseg"] == 2).all()
    assert (first.labels["human_parts"] == 6).all()
    assert (first.labels["saliency"] == 1).all()
    assert (first.labels["boundaries"] == 0.25).all()
    assert source.image_size == (6, 6)
    assert source.num_classes == 5


def test_only_the_labels_of_the_tasks_are_read(tree, root, tmp_path):
    (root / "class/0000.png").unlink()
    sample = read_all(open_folder(tree, tmp_path, tasks=("depth",)))[0]
    assert set(sample.labels) == {"depth"}


def test_shards_hold_sixty_four_keys(tree, root, tmp_path):
    for i in range(10, 130):
        shutil.copy(root / "rgb/0000.png", root / f"rgb/{i:04d}.png")
    tree["splits"]["train"] = {"all": True}
    shards = open_folder(tree, tmp_path, tasks=()).shards("train")
    assert [len(shard.keys) for shard in shards] == [64, 64, 2]
    assert [shard.name for shard in shards] == ["train-000000", "train-000001", "train-000002"]


def test_a_limit_takes_evenly_spaced_keys(tree, tmp_path):
    source = open_folder(tree, tmp_path, num_labelled=3)
    assert keys_of(source, "train") == ["0000", "0003", "0006"]


def test_a_range_names_keys_by_number(tree, tmp_path):
    tree["splits"]["train"] = {"range": [2, 4], "digits": 4}
    assert keys_of(open_folder(tree, tmp_path), "train") == ["0002", "0003", "0004"]


def test_held_out_keys_leave_the_train_split(tree, tmp_path):
    tree["splits"]["test"] = {"hold_out": {"every": 5}}
    tree["splits"]["validation"] = {"hold_out": {"every": 4}}
    source = open_folder(tree, tmp_path)
    assert keys_of(source, "test") == ["0004", "0009"]
    assert keys_of(source, "validation") == ["0003", "0008"]
    assert len(keys_of(source, "train")) == 6


def test_held_out_blocks_keep_neighbours_together(tree, tmp_path):
    tree["splits"]["test"] = {"hold_out": {"every": 2, "block": 3}}
    assert keys_of(open_folder(tree, tmp_path), "test") == ["0003", "0004", "0005", "0009"]


def test_a_crop_keeps_shapes_and_a_stretch_keeps_the_border(tree, root, tmp_path):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, [0, 1, -2, -1]] = 255
    png(root / "rgb/0000.png", image)
    assert read_all(open_folder(tree, tmp_path))[0].image.max() == 0
    tree["fit"] = "stretch"
    assert read_all(open_folder(tree, tmp_path))[0].image.max() > 100


def test_captions_are_read_where_described(tree, root, tmp_path):
    (root / "caption").mkdir()
    (root / "caption/0000.txt").write_text("a grey wall\n")
    tree["caption"] = "caption/{key}.txt"
    samples = read_all(open_folder(tree, tmp_path))
    assert [samples[0].caption, samples[1].caption] == ["a grey wall", ""]


def test_keys_with_folders_and_dots_become_plain_names(tree, root, tmp_path):
    write_sample(root, "kitchen/0001.left")
    (root / "train.txt").write_text("kitchen/0001.left\n")
    source = open_folder(tree, tmp_path)
    sample = read_all(source)[0]
    assert sample.key == "kitchen_0001_left"
    assert sample.meta["file_key"] == "kitchen/0001.left"


def test_a_root_may_be_relative_or_hold_a_variable(tree, root, tmp_path, monkeypatch):
    tree["root"] = "photographs"
    assert len(keys_of(open_folder(tree, tmp_path), "train")) == 10
    monkeypatch.setenv("MY_PHOTOGRAPHS", str(root))
    tree["root"] = "${MY_PHOTOGRAPHS}"
    assert len(keys_of(open_folder(tree, tmp_path), "train")) == 10


def test_a_cut_off_image_is_one_unreadable_sample(tree, root, tmp_path):
    path = root / "rgb/0003.png"
    png(path, np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:200])
    reasons = [each.reason for each in read_all(open_folder(tree, tmp_path)) if each.key == "0003"]
    assert reasons == ["decode_failed"]


def test_a_file_that_vanishes_later_is_one_unreadable_sample(tree, root, tmp_path):
    source = open_folder(tree, tmp_path)
    (root / "depth/0002.png").unlink()
    bad = read_all(source)[2]
    assert (bad.key, bad.reason) == ("0002", "file_missing")


def test_a_label_that_changes_size_later_is_one_unreadable_sample(tree, root, tmp_path):
    source = open_folder(tree, tmp_path)
    png(root / "depth/0002.png", np.full((HEIGHT, WIDTH + 1), 9, np.uint16))
    bad = read_all(source)[2]
    assert (bad.key, bad.reason) == ("0002", "label_size_differs")


def test_a_numpy_file_of_another_size_stops_at_the_start(tree, root, tmp_path):
    np.save(root / "edge/0004.npy", np.zeros((6, 8)))
    message = error_of(tree, tmp_path)
    assert "labels.boundaries" in message
    assert "is 8 x 6" in message


def test_a_label_size_that_differs_stops_at_the_start(tree, root, tmp_path):
    png(root / "normal/0004.png", np.zeros((HEIGHT // 2, WIDTH // 2, 3), np.uint8))
    message = error_of(tree, tmp_path)
    assert "labels.normals" in message
    assert "8 x 6" in message
    assert "16 x 12" in message
    assert "export both alike" in message


@pytest.mark.parametrize("folder", ["rgb", "depth"])
def test_a_missing_file_is_named_with_its_field(tree, root, tmp_path, folder):
    (root / f"{folder}/0005.png").unlink()
    message = error_of(tree, tmp_path)
    assert f"{folder}/0005.png" in message
    assert "1 of 10 files are missing" in message
    assert ("image = " if folder == "rgb" else "labels.depth.pattern = ") in message


def test_a_missing_folder_is_named(tree, tmp_path):
    tree["root"] = str(tmp_path / "nowhere")
    assert f"root = {tmp_path / 'nowhere'}" in error_of(tree, tmp_path)


def test_a_variable_that_is_not_set_is_named(tree, tmp_path, monkeypatch):
    monkeypatch.delenv("MY_PHOTOGRAPHS", raising=False)
    tree["root"] = "${MY_PHOTOGRAPHS}"
    assert "export MY_PHOTOGRAPHS=" in error_of(tree, tmp_path)


def test_a_missing_list_is_named(tree, tmp_path):
    tree["splits"]["train"] = {"list": "no_such.txt"}
    message = error_of(tree, tmp_path)
    assert "splits.train.list = no_such.txt" in message


def test_an_empty_list_a_repeated_key_and_a_shared_key_are_errors(tree, root, tmp_path):
    (root / "train.txt").write_text("\n")
    assert "no key found" in error_of(tree, tmp_path)
    (root / "train.txt").write_text("0001\n0001\n")
    assert "'0001' comes more than once" in error_of(tree, tmp_path)
    (root / "train.txt").write_text("0001\n0002\n")
    tree["splits"]["test"] = {"list": "train.txt"}
    assert "is in both test and train" in error_of(tree, tmp_path)


@pytest.mark.parametrize("text", ["- a list", "root: [1, 2", "image: {rgb/{key}.png}"])
def test_a_description_that_is_no_mapping_is_an_error(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(SourceError, match=r"bad\.yaml"):
        FolderSource(FolderConfig(description=str(file)), TASKS)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("colour",), "red", "colour = 'red': unknown field"),
        (("size",), [6], "size"),
        (("size",), [0, 6], "size.0 = 0"),
        (("fit",), "pad", "fit = 'pad'"),
        (("image",), "rgb/one.png", "has to hold {key} once"),
        (("labels", "depth", "unit"), "inch", "labels.depth.unit"),
        (("labels", "depth", "pattern"), "depth.png", "labels.depth.pattern = 'depth.png'"),
        (("labels", "normals", "x"), "up", "labels.normals.x = 'up'"),
        (("labels", "human_parts", "id_map"), {1: 7}, "1 becomes 7, which is outside 0..6"),
        (("labels", "human_parts", "id_offset"), 1, "id_map and id_offset exclude each other"),
        (("labels", "saliency", "threshold"), 1.0, "labels.saliency.threshold = 1.0"),
        (("labels", "boundaries", "max_value"), 0, "labels.boundaries.max_value = 0"),
        (("labels", "boundaries", "pattern"), "edge.npy", "labels.boundaries.pattern = 'edge.npy'"),
        (("labels", "semseg", "num_classes"), 1, "labels.semseg.num_classes = 1"),
        (("splits", "train"), {}, "exactly one of list, range, all, hold_out"),
        (("splits", "train"), {"list": "a", "all": True}, "found all and list"),
        (("splits", "train"), {"hold_out": {"every": 2}}, "train cannot be held out"),
        (("splits", "test"), {"hold_out": {"every": 1}}, "splits.test.hold_out.every = 1"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(tree, tmp_path, path, value, expected):
    *parents, leaf = path
    node = tree
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    message = error_of(tree, tmp_path)
    assert expected in message
    assert "mine.yaml" in message


def test_more_classes_than_the_method_has_is_an_error(tree, tmp_path):
    open_folder(tree, tmp_path)
    config = FolderConfig(description=str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match=r"set method\.num_classes=5"):
        open_source(config, ("semseg",), num_classes=4)
    assert open_source(config, ("semseg",), num_classes=5).name == "mine"


def test_the_description_in_the_guide_is_valid(tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "howto-your-own-folder.md").read_text()
    file = tmp_path / "guide.yaml"
    file.write_text(guide.split("```yaml\n")[1].split("```")[0])
    described = load_description(file)
    assert described.labels.semseg.num_classes == 40
    assert described.splits.validation.hold_out.block == 16
