"""What the report of a converted data set finds odd."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.config_source import RoomsSource
from schemas.sample import Sample
from sources.open import open_source
from sources.report.oddities import Expected, describe_counts, describe_oddities, suggested_signs
from sources.report.tally import SplitTally, TaskTally, tally_from_json, tally_sample

NOTHING = Expected(official_counts={}, num_classes=3)


def sample_of(task, label, key="a"):
    image = np.zeros((*label.shape[:2], 3), np.uint8)
    return Sample(key=key, image=image, labels={task: label})


def tally_of(task, *labels):
    tally = SplitTally()
    for label in labels:
        tally.add(tally_sample(sample_of(task, label), stored_size=label.shape[:2]))
    return tally


def oddities(task, *labels, expected=NOTHING):
    return "\n".join(describe_oddities({"train": tally_of(task, *labels)}, expected))


@pytest.fixture(scope="module")
def room_normals():
    source = open_source(RoomsSource(num_labelled=24), ("normals",))
    return [one.labels["normals"] for shard in source.shards("train") for one in source.read(shard)]


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, -1)])
def test_pictures_of_rooms_tell_how_the_axes_point(room_normals, signs):
    tally = tally_of("normals", *(normals * np.float32(signs) for normals in room_normals))
    assert suggested_signs(tally.tasks["normals"]) == signs


def test_a_few_pictures_tell_only_whether_surfaces_face_the_camera(room_normals):
    tally = tally_of("normals", *(-normals for normals in room_normals[:3]))
    assert suggested_signs(tally.tasks["normals"]) == (1, 1, -1)


def test_the_remedy_takes_the_signs_given_now_into_account(room_normals):
    expected = Expected(official_counts={}, num_classes=0, signs=(1.0, -1.0, -1.0))
    turned = [normals * np.float32([1, 1, -1]) for normals in room_normals]
    assert "--normals-signs=1,-1,1" in oddities("normals", *turned, expected=expected)


def test_ignored_pixels_and_ranges_are_counted_exactly():
    one = np.array([[0, 1.5, 2], [0, 0, 9]], np.float32)
    other = np.array([[0.25, 0, 0], [0, 0, 0]], np.float32)
    tally = tally_of("depth", one, other).tasks["depth"]
    assert (tally.images, tally.pixels, tally.ignored) == (2, 12, 8)
    assert (tally.least, tally.greatest) == (0.25, 9)
    ids = tally_of("semseg", np.array([[0, 2, 255, 2]], np.uint8)).tasks["semseg"]
    assert dict(ids.ids) == {"0": 1, "2": 2}
    assert (ids.ignored, ids.least, ids.greatest) == (1, 0, 2)
    probability = tally_of("saliency", np.array([[-1, 0.5]], np.float32)).tasks["saliency"]
    assert (probability.ignored, probability.least, probability.greatest) == (1, 0.5, 0.5)


def test_a_tally_survives_its_text(room_normals):
    tally = tally_of("normals", *room_normals[:2])
    tally.add(tally_of("semseg", np.array([[0, 2, 255, 2]], np.uint8)))
    tally.failed["decode_failed"] += 2
    assert tally_from_json(tally.to_json()) == tally


def test_an_empty_label_and_an_empty_task_have_no_range():
    lines = "\n".join(describe_counts({"train": tally_of("depth", np.zeros((2, 2), np.float32))}))
    assert "100.0%  no valid pixel" in lines
    assert TaskTally().mean("z") is None
    assert "100% of the pixels have no value" in oddities("depth", np.zeros((2, 2), np.float32))


def test_depth_in_other_units_is_odd():
    metres = np.linspace(1, 8, 4, dtype=np.float32)[None]
    assert oddities("depth", metres) == ""
    assert "up to 8000 m" in oddities("depth", metres * 1000)
    assert "at most 0.4 m: these look like normalised" in oddities("depth", metres / 20)


def test_disparities_have_no_unit_and_are_not_judged_as_metres():
    disparities = np.linspace(0.1, 0.4, 4, dtype=np.float32)[None]
    lines = describe_counts({"train": tally_of("depth", disparities)}, depth_unit="")
    assert lines[-1].endswith("0.100 to 0.400")
    expected = Expected(official_counts={}, num_classes=0, depth_unit="")
    assert oddities("depth", disparities, expected=expected) == ""


def test_stored_lengths_far_from_one_are_odd():
    normals = np.zeros((2, 2, 3), np.float32)
    normals[..., 2] = 1
    sample = sample_of("normals", normals)
    sample.meta["normals_norm"] = 0.7
    tally = tally_sample(sample, stored_size=(2, 2))
    assert "mean length 0.700 in place of 1" in "\n".join(
        describe_oddities({"train": tally}, NOTHING)
    )


def test_classes_that_are_never_seen_are_named():
    expected = Expected(official_counts={}, num_classes=3, class_names=("wall", "floor", "bed"))
    found = oddities("semseg", np.array([[0, 2, 255]], np.uint8), expected=expected)
    assert "train: 1 of 3 classes are never seen: floor;" in found


def test_a_class_that_few_images_show_while_much_is_ignored_is_odd():
    labels = [np.array([[0, 0, 255]], np.uint8)] * 30 + [np.array([[0, 0, 1]], np.uint8)]
    found = oddities("semseg", *labels)
    assert "class 1 occurs in 1 of 31 images, and 32% of all pixels are ignored" in found
    assert "ignored" not in oddities("semseg", *labels[-1:] * 31)


def test_images_without_a_label_are_counted():
    tally = tally_of("depth", np.ones((2, 2), np.float32))
    tally.add(tally_of("semseg", np.array([[0, 1, 2]], np.uint8)))
    found = describe_oddities({"train": tally}, NOTHING)
    assert "train: depth: 1 of 2 images have no such label" in found


def test_several_sizes_are_odd_only_if_they_are_kept():
    labels = (np.ones((2, 2), np.float32), np.ones((2, 3), np.float32))
    assert "images have 2 sizes, such as 2 x 2, 2 x 3; training needs one" in oddities(
        "depth", *labels
    )
    fitted = Expected(official_counts={}, num_classes=0, size=(4, 4))
    assert oddities("depth", *labels, expected=fitted) == ""
