"""Label files of a user's own folder, decoded as the description says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.errors import SourceError
from schemas.sample import IGNORE_ID, Sample, UnreadableSample
from tests.kit.folder_files import (
    HEIGHT,
    WIDTH,
    open_folder,
    png,
    read_all,
    write_folder,
)


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "photographs"


@pytest.fixture
def tree(root) -> dict:
    return write_folder(root)


def error_of(tree: dict, tmp_path: Path, **config) -> str:
    with pytest.raises(SourceError) as caught:
        open_folder(tree, tmp_path, **config)
    return str(caught.value)


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


def test_a_class_id_out_of_range_is_one_unreadable_sample(tree, root, tmp_path):
    png(root / "class/0002.png", np.full((HEIGHT, WIDTH), 9, np.uint8))
    bad = read_all(open_folder(tree, tmp_path))[2]
    assert (bad.key, bad.reason) == ("0002", "class_id_out_of_range")
    assert "stored id 9" in bad.detail


def test_a_label_of_another_kind_is_one_unreadable_sample(tree, root, tmp_path):
    png(root / "depth/0002.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    bad = read_all(open_folder(tree, tmp_path))[2]
    assert (bad.key, bad.reason) == ("0002", "label_format")


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
    for words in (f"{folder}/0000.png", f"labels.{task}: stored id 8 is not in id_map", "correct"):
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
