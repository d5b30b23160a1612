"""The picture of what a run made."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from runs.contact_sheet import CELL_PX, SheetRow, make_contact_sheet, rows_of_run
from runs.pictures import class_legend, describe_reliability, label_as_rgb
from schemas.sample import IGNORE_ID, TASKS
from sources.open import open_source
from storage.files.stores import open_store
from tests.kit.committed_units import commit, image_unit, relabel_unit
from tests.kit.random_labels import random_label
from tests.kit.small_run import make_config

SIDE = 16


RED, GREEN = (200, 10, 10), (10, 200, 10)


def make_row(caption: str = "a red room") -> SheetRow:
    return SheetRow(
        real=np.full((SIDE, SIDE, 3), RED, np.uint8),
        synthetic=np.full((SIDE, SIDE, 3), GREEN, np.uint8),
        labels={task: random_label(task, (SIDE, SIDE)) for task in TASKS},
        caption=caption,
        note="from k0, T = 600",
    )


def draw(rows: list[SheetRow]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(make_contact_sheet(rows)), formats=("PNG",)))


def test_a_sheet_shows_a_column_for_each_task_beside_the_images():
    sheet = draw([make_row()])
    assert sheet.shape[1] > (2 + len(TASKS)) * CELL_PX
    for colour in (RED, GREEN):
        assert (sheet == colour).all(axis=-1).sum() == CELL_PX**2


def test_labels_of_the_real_image_stand_beside_the_predicted_ones():
    row = make_row()
    plain = draw([row])
    truth = {"semseg": row.labels["semseg"], "depth": row.labels["depth"]}
    with_truth = draw([replace(row, truth=truth)])
    assert with_truth.shape[1] == plain.shape[1] + 2 * (CELL_PX + 8)


def test_what_the_creator_made_stands_beside_the_label():
    row = make_row()
    plain = draw([row])
    maps = {"semseg": row.labels["semseg"], "normals": row.labels["normals"]}
    with_maps = draw([replace(row, maps=maps)])
    assert with_maps.shape[1] == plain.shape[1] + 2 * (CELL_PX + 8)


def test_colours_of_classes_are_explained_by_id_and_name():
    maps = [np.array([[0, 2], [2, IGNORE_ID]], np.uint8), np.array([[5]], np.uint8)]
    legend = class_legend({"semseg": maps, "depth": []}, {"semseg": ("void", "wall", "floor")})
    assert [text for _, text in legend] == ["0 void", "2 floor", "5", "not labelled"]
    assert [colour for colour, _ in legend] == [
        tuple(label_as_rgb(np.array([[each]], np.uint8), "semseg")[0, 0])
        for each in (0, 2, 5, IGNORE_ID)
    ]


def test_two_tasks_with_classes_are_told_apart_in_the_legend():
    one = [np.zeros((1, 1), np.uint8)]
    legend = class_legend({"semseg": one, "human_parts": one}, {"human_parts": ("background",)})
    assert [text for _, text in legend] == ["semseg 0", "human_parts 0 background"]


def test_the_legend_lies_below_the_rows():
    row = make_row()
    rows = [replace(row, labels={"semseg": np.full((4, 4), 3, np.uint8)})]
    sheet = draw(rows)
    colour = label_as_rgb(np.array([[3]], np.uint8), "semseg")[0, 0]
    assert (sheet[-25:, :40] == colour).all(axis=-1).sum() > 100


def test_a_row_without_a_real_image_is_drawn_without_it():
    row = make_row()
    empty = SheetRow(real=None, synthetic=row.synthetic, labels=row.labels, caption="noise")
    assert not (draw([empty]) == RED).all(axis=-1).any()


def test_a_long_caption_is_wrapped_within_the_sheet():
    short, long = draw([make_row()]), draw([make_row("a very long caption " * 30)])
    assert long.shape[0] > short.shape[0]
    assert long.shape[1] == short.shape[1]
    assert (long[:, -3:] > 240).all()


def test_rows_lie_below_each_other():
    row = make_row()
    # Without classes there is no legend, which both would have.
    row = replace(row, labels={"depth": row.labels["depth"]})
    one, two = draw([row]), draw([row, row])
    assert two.shape[0] > 1.8 * one.shape[0]


def test_invalid_labels_are_black_and_normals_are_coloured_by_direction():
    normals = np.zeros((2, 1, 3), np.float32)
    normals[1] = (0, 0, 1)
    assert label_as_rgb(normals, "normals").tolist() == [[[0, 0, 0]], [[128, 128, 255]]]
    depth = label_as_rgb(np.float32([[0, 1, 2]]), "depth")
    assert depth[0, 0].tolist() == [0, 0, 0]
    assert depth[0, 1].sum() > depth[0, 2].sum()
    assert not label_as_rgb(np.zeros((2, 2), np.float32), "depth").any()
    ids = label_as_rgb(np.uint8([[IGNORE_ID, 0, 1]]), "semseg")
    assert ids[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("task", ["saliency", "boundaries"])
def test_probabilities_are_grey_and_what_is_ignored_is_not(task):
    cells = label_as_rgb(np.float32([[0, 0.5, 1, -1]]), task)[0].tolist()
    assert cells[:3] == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    assert len(set(cells[3])) > 1


def test_of_two_classes_the_background_is_grey_and_the_other_is_not():
    background, other = label_as_rgb(np.uint8([[0, 1]]), "semseg")[0].tolist()
    assert len(set(background)) == 1
    assert max(other) - min(other) > 200


@pytest.mark.parametrize("task", ["semseg", "human_parts"])
@pytest.mark.parametrize(("count", "apart"), [(7, 120), (21, 90), (40, 60), (150, 40), (255, 20)])
def test_classes_have_distinct_colours(task, count, apart):
    colours = label_as_rgb(np.arange(count, dtype=np.uint8)[None], task)[0].astype(float)
    colours = np.concatenate([colours, np.zeros((1, 3))])
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distance[~np.eye(count + 1, dtype=bool)].min() > apart


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_rows_of_a_run_show_its_newest_labels(tmp_path, limit):
    config = make_config(tmp_path)
    store = open_store(config.run.url)
    first = image_unit("a")
    commit(store, first, version=0)
    commit(store, image_unit("b"), version=1, filtered=("b0",))
    commit(store, relabel_unit(first, round_index=1), version=4)
    rows = rows_of_run(store, open_source(config.source, ("normals",)), limit=limit)
    assert len(rows) == min(limit, 7)
    assert not any("version 0" in row.note for row in rows)
    assert all(row.caption == "a small room" for row in rows)


def test_a_run_without_samples_gives_no_rows(tmp_path):
    config = make_config(tmp_path)
    source = open_source(config.source, ("normals",))
    assert rows_of_run(open_store(config.run.url), source, limit=4) == []


def test_depths_that_are_compared_have_one_scale():
    truth = np.array([[1.0, 2.0, 5.0]], np.float32)
    alike = label_as_rgb(truth + 0, "depth", like=truth)
    np.testing.assert_array_equal(alike, label_as_rgb(truth, "depth"))
    farther = label_as_rgb(np.full_like(truth, 5.0), "depth", like=truth)
    np.testing.assert_array_equal(farther[0, 0], label_as_rgb(truth, "depth")[0, 2])


@pytest.mark.parametrize(
    ("task", "value", "wanted"),
    [
        ("normals", 0.0, "error not estimated"),
        ("normals", 12.34, "expected error 12.3°"),
        ("depth", 1.0, "error not estimated"),
        ("depth", 0.5, "confidence 0.50"),
    ],
)
def test_a_label_that_is_surest_everywhere_is_one_without_an_estimate(task, value, wanted):
    assert describe_reliability(np.full((4, 4), value, np.float32), task) == wanted
