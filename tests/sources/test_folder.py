"""A user's own folder: what it gives, and what it says when something is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from schemas.config import FolderSource as FolderConfig
from schemas.errors import ConfigError, SourceError
from schemas.sample import IGNORE_ID, TASKS, Sample, UnreadableSample
from sources.folder import FolderSource
from sources.folder_description import load_description
from sources.open import open_source

HEIGHT, WIDTH = 12, 16


def png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_sample(root: Path, key: str, *, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    png(root / f"rgb/{key}.png", np.full((*size, 3), 100, np.uint8))
    png(root / f"normal/{key}.png", np.broadcast_to(np.uint8([128, 255, 128]), (*size, 3)).copy())
    png(root / f"depth/{key}.png", np.full(size, 2500, np.uint16))
    png(root / f"class/{key}.png", np.full(size, 3, np.uint8))
    png(root / f"parts/{key}.png", np.full(size, 40, np.uint8))
    png(root / f"salient/{key}.png", np.full(size, 255, np.uint8))
    edge = root / f"edge/{key}.npy"
    edge.parent.mkdir(parents=True, exist_ok=True)
    np.save(edge, np.full(size, 0.25, np.float32))


def description(root: Path) -> dict:
    return {
        "name": "mine",
        "root": str(root),
        "image": "rgb/{key}.png",
        "labels": {
            "normals": {"pattern": "normal/{key}.png"},
            "depth": {"pattern": "depth/{key}.png", "unit": "mm"},
            "semseg": {
                "pattern": "class/{key}.png",
                "num_classes": 5,
                "ignore": [0],
                "id_offset": -1,
            },
            "human_parts": {"pattern": "parts/{key}.png", "id_map": {0: 0, 40: 6}},
            "saliency": {"pattern": "salient/{key}.png"},
            "boundaries": {"pattern": "edge/{key}.npy"},
        },
        "splits": {"train": {"list": "train.txt"}},
        "size": [6, 6],
    }


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "photographs"
    keys = [f"{i:04d}" for i in range(10)]
    for key in keys:
        write_sample(folder, key)
    (folder / "train.txt").write_text("# my keys\n" + "\n".join(keys) + "\n")
    return folder


@pytest.fixture
def tree(root) -> dict:
    return description(root)


def open_folder(tree: dict, tmp_path: Path, tasks=TASKS, **config) -> FolderSource:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(tree))
    return FolderSource(FolderConfig(description=str(file), **config), tasks)


def read_all(source: FolderSource, split="train") -> list[Sample | UnreadableSample]:
    return [found for shard in source.shards(split) for found in source.read(shard)]


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


def test_given_keys_are_read_in_the_order_given(tree, tmp_path):
    source = open_folder(tree, tmp_path)
    found = list(source.read(source.shards("train")[0], ["0007", "0002"]))
    assert [sample.key for sample in found] == ["0007", "0002"]


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


def test_signs_turn_normals_into_the_projects_frame(tree, root, tmp_path):
    png(root / "normal/0000.png", np.full((HEIGHT, WIDTH, 3), [218, 37, 218], np.uint8))
    tree["labels"]["normals"] |= {"x": "left", "y": "down", "z": "away"}
    normal = read_all(open_folder(tree, tmp_path))[0].labels["normals"][2, 2]
    np.testing.assert_allclose(normal, np.array([-1, 1, -1]) / np.sqrt(3), atol=0.01)


def test_invalid_pixels_stay_invalid(tree, root, tmp_path):
    for folder, shape, kind in (
        ("normal", (HEIGHT, WIDTH, 3), np.uint8),
        ("depth", (HEIGHT, WIDTH), np.uint16),
        ("class", (HEIGHT, WIDTH), np.uint8),
    ):
        png(root / f"{folder}/0000.png", np.zeros(shape, kind))
    labels = read_all(open_folder(tree, tmp_path))[0].labels
    assert not labels["normals"].any()
    assert not labels["depth"].any()
    assert (labels["semseg"] == IGNORE_ID).all()


@pytest.mark.parametrize(("unit", "metres"), [("mm", 2.5), ("cm", 25.0), (0.0002, 0.5)])
def test_depth_units_are_metres_in_memory(tree, tmp_path, unit, metres):
    tree["labels"]["depth"]["unit"] = unit
    depth_m = read_all(open_folder(tree, tmp_path))[0].labels["depth"]
    np.testing.assert_allclose(depth_m, metres, rtol=1e-5)


def test_depth_beyond_the_limit_is_invalid(tree, tmp_path):
    tree["labels"]["depth"]["max_m"] = 2.0
    assert not read_all(open_folder(tree, tmp_path))[0].labels["depth"].any()


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


def test_an_image_that_does_not_decode_is_one_unreadable_sample(tree, root, tmp_path):
    (root / "rgb/0003.png").write_bytes(b"no image at all")
    samples = read_all(open_folder(tree, tmp_path))
    bad = [sample for sample in samples if isinstance(sample, UnreadableSample)]
    assert len(samples) == 10
    assert [(each.key, each.reason) for each in bad] == [("0003", "decode_failed")]
    assert bad[0].uri.endswith("rgb/0003.png")


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


def test_a_class_id_out_of_range_is_one_unreadable_sample(tree, root, tmp_path):
    png(root / "class/0002.png", np.full((HEIGHT, WIDTH), 9, np.uint8))
    bad = read_all(open_folder(tree, tmp_path))[2]
    assert (bad.key, bad.reason) == ("0002", "class_id_out_of_range")
    assert "stored id 9" in bad.detail


def read_first(tree: dict, tmp_path: Path, task: str) -> np.ndarray:
    (sample, *_) = read_all(open_folder(tree, tmp_path, tasks=(task,)))
    assert isinstance(sample, Sample), sample.detail
    return sample.labels[task]


def reject_first(tree: dict, tmp_path: Path, task: str) -> UnreadableSample:
    (sample, *_) = read_all(open_folder(tree, tmp_path, tasks=(task,)))
    assert isinstance(sample, UnreadableSample)
    return sample


def halves(left: float, right: float, kind: type = np.uint8) -> np.ndarray:
    array = np.full((HEIGHT, WIDTH), left, kind)
    array[:, WIDTH // 2 :] = right
    return array


@pytest.mark.parametrize("task", ["semseg", "human_parts"])
def test_ids_are_mapped_and_255_is_ignored_unless_said_otherwise(tree, root, tmp_path, task):
    folder = {"semseg": "class", "human_parts": "parts"}[task]
    count = {"num_classes": 5} if task == "semseg" else {}
    pattern = {"pattern": folder + "/{key}.png"}
    tree["labels"][task] = pattern | count | {"id_map": {7: 0, 19: 3}}
    png(root / f"{folder}/0000.png", halves(19, 255))
    label = read_first(tree, tmp_path, task)
    assert (label[:, 0] == 3).all()
    assert (label[:, -1] == IGNORE_ID).all()
    png(root / f"{folder}/0000.png", halves(19, 8))
    bad = reject_first(tree, tmp_path, task)
    assert bad.reason == "class_id_out_of_range"
    for words in (f"{folder}/0000.png", f"labels.{task}: stored id 8 is not in id_map", "mend"):
        assert words in bad.detail
    tree["labels"][task]["ignore"] = [8]
    assert (read_first(tree, tmp_path, task)[:, -1] == IGNORE_ID).all()


def test_human_parts_are_seven(tree, root, tmp_path):
    tree["labels"]["human_parts"] = {"pattern": "parts/{key}.png"}
    png(root / "parts/0000.png", halves(0, 7))
    bad = reject_first(tree, tmp_path, "human_parts")
    assert "stored id 7 with id_offset = 0 is outside 0..6" in bad.detail
    tree["labels"]["human_parts"]["num_classes"] = 15
    assert "labels.human_parts.num_classes = 15" in error_of(tree, tmp_path)


@pytest.mark.parametrize(
    ("stored", "fields", "expected"),
    [
        (halves(0, 255), {}, (0, 1)),
        (halves(0, 1), {"max_value": 1}, (0, 1)),
        (halves(51, 204), {}, (0.2, 0.8)),
        (halves(51, 204), {"threshold": 0.5}, (0, 1)),
        (halves(128, 255), {"ignore": [255], "max_value": 128}, (1, -1)),
        (halves(0, 40000, np.uint16), {"max_value": 50000}, (0, 0.8)),
        (halves(False, True, np.bool_), {"max_value": 1}, (0, 1)),
    ],
)
def test_probabilities_come_from_grey_pngs(tree, root, tmp_path, stored, fields, expected):
    tree["labels"]["saliency"] |= fields
    png(root / "salient/0000.png", stored)
    label = read_first(tree, tmp_path, "saliency")
    np.testing.assert_allclose(label[3, [0, -1]], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("stored", "fields", "expected"),
    [
        (halves(0, 1, np.float64), {}, (0, 1)),
        (halves(0.25, -1, np.float32), {"ignore": [-1]}, (0.25, -1)),
        (halves(0, 255), {"max_value": 255}, (0, 1)),
        (halves(0, 0.6, np.float16)[..., None], {"threshold": 0.5}, (0, 1)),
        (halves(False, True, np.bool_), {}, (0, 1)),
    ],
)
def test_probabilities_come_from_numpy_files(tree, root, tmp_path, stored, fields, expected):
    tree["labels"]["boundaries"] |= fields
    np.save(root / "edge/0000.npy", stored)
    label = read_first(tree, tmp_path, "boundaries")
    np.testing.assert_allclose(label[3, [0, -1]], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("stored", "reason", "words"),
    [
        (halves(0, 255), "probability_out_of_range", "stored value 255 is outside 0..1"),
        (halves(-0.5, 1, np.float32), "probability_out_of_range", "stored value -0.5"),
        (halves(0, np.nan, np.float32), "probability_out_of_range", "stored value nan"),
        (np.zeros((HEIGHT, WIDTH, 3)), "label_format", "wanted numbers"),
        (np.full((HEIGHT, WIDTH), "x"), "label_format", "wanted numbers"),
        (np.full((HEIGHT, WIDTH), None), "decode_failed", "allow_pickle"),
    ],
)
def test_odd_numpy_files_are_named(tree, root, tmp_path, stored, reason, words):
    np.save(root / "edge/0000.npy", stored)
    bad = reject_first(tree, tmp_path, "boundaries")
    assert bad.reason == reason
    assert "edge/0000.npy" in bad.detail
    assert words in bad.detail


def test_a_file_that_is_no_numpy_file_is_named(tree, root, tmp_path):
    (root / "edge/0000.npy").write_bytes(b"no array")
    bad = reject_first(tree, tmp_path, "boundaries")
    assert (bad.reason, "edge/0000.npy" in bad.detail) == ("decode_failed", True)


def test_zeros_and_ones_where_255_was_promised_are_not_taken_for_nothing(tree, root, tmp_path):
    png(root / "salient/0000.png", halves(0, 1))
    bad = reject_first(tree, tmp_path, "saliency")
    assert "say max_value: 1" in bad.detail
    png(root / "salient/0000.png", halves(0, 0))
    assert not read_first(tree, tmp_path, "saliency").any()


def test_a_numpy_file_of_another_size_stops_at_the_start(tree, root, tmp_path):
    np.save(root / "edge/0004.npy", np.zeros((6, 8)))
    message = error_of(tree, tmp_path)
    assert "labels.boundaries" in message
    assert "is 8 x 6" in message


def test_a_label_of_another_kind_is_one_unreadable_sample(tree, root, tmp_path):
    png(root / "depth/0002.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    bad = read_all(open_folder(tree, tmp_path))[2]
    assert (bad.key, bad.reason) == ("0002", "label_format")


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


def test_a_missing_description_is_an_error():
    with pytest.raises(SourceError, match=r"source\.description = no/such\.yaml"):
        FolderSource(FolderConfig(description="no/such.yaml"), TASKS)


@pytest.mark.parametrize("text", ["- a list", "root: [1, 2", "image: {rgb/{key}.png}"])
def test_a_description_that_is_no_mapping_is_an_error(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(SourceError, match=r"bad\.yaml"):
        FolderSource(FolderConfig(description=str(file)), TASKS)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("colour",), "red", "colour: unknown field"),
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


def test_a_task_without_described_labels_is_an_error(tree, tmp_path):
    del tree["labels"]["semseg"]
    assert "leave semseg out of method.tasks" in error_of(tree, tmp_path)


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
