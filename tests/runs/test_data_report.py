"""What the report on a run's data finds before the run begins."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from runs.data_report import data_report_of, expect_useful, keep_data_report
from schemas.config_file import parse_config
from schemas.errors import SourceError
from schemas.run_layout import DATA_REPORT_FILE
from sources.open import open_run_source
from sources.report.data_report import LOOKED_AT, TELLING, report_of
from storage.files.stores import open_store
from tests.kit.memory_source import MemorySource
from tests.kit.photo_folder import config_of, normals_code, write_photos
from tests.kit.rooms_source import rooms_section
from tests.kit.small_run import make_config, write_source

DEPTH = {"depth": {"pattern": "depth/{key}.png", "unit": "mm"}}
MASKS = {"semseg": {"pattern": "mask/{key}.png", "num_classes": 2}}


def look_at(config):
    return data_report_of(config, open_run_source(config))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "photos"


def millimetres(made):
    return np.rint(made["depth"] * 1000).astype(np.uint16)


def mask_255(made):
    return np.where(made["ids"] == 2, np.uint8(255), np.uint8(0))


def warnings_of(config) -> str:
    report = look_at(config)
    assert report.errors == ()
    return "\n".join(report.warnings)


def test_a_sound_folder_has_no_remark_and_its_ranges_are_shown(root):
    write_photos(root, depth=millimetres)
    report = look_at(config_of(root, DEPTH))
    assert (report.errors, report.warnings) == ((), ())
    lines = "\n".join(report.lines())
    assert "looked at 6 of 6 train, 2 of 2 test" in lines
    assert "m, median 2." in lines


def test_millimetres_declared_as_metres_are_told_with_the_unit_to_say(root):
    write_photos(root, depth=millimetres)
    found = warnings_of(config_of(root, {"depth": {"pattern": "depth/{key}.png", "unit": "m"}}))
    assert "train: depth: median 2" in found
    assert "is the unit mm? labels.depth.unit is m; say unit: mm" in found


def test_metres_declared_as_millimetres_are_told_too(root):
    write_photos(root, depth=lambda made: np.rint(made["depth"] * 10).astype(np.uint16))
    found = warnings_of(config_of(root, DEPTH))
    assert "labels.depth.unit is mm" in found


def test_masks_whose_foreground_is_ignored_are_refused_with_the_map_to_write(root):
    write_photos(root, mask=mask_255)
    report = look_at(config_of(root, MASKS))
    with pytest.raises(SourceError, match="only class 0 occurs, everything else is ignored"):
        expect_useful(report)
    assert "labels.semseg: {id_map: {0: 0, 255: 1}, ignore: []}" in report.errors[0]
    assert report.warnings == ()


def test_the_map_that_was_advised_works(root):
    write_photos(root, mask=mask_255)
    labels = {"semseg": {**MASKS["semseg"], "id_map": {0: 0, 255: 1}, "ignore": []}}
    assert warnings_of(config_of(root, labels)) == ""


def test_labels_without_any_value_are_refused(root):
    write_photos(root, depth=lambda made: np.zeros_like(millimetres(made)))
    with pytest.raises(SourceError, match="train: depth: no image has a pixel with a value"):
        expect_useful(look_at(config_of(root, DEPTH)))


def test_labels_that_cannot_be_read_are_refused_with_the_first_cause(root):
    write_photos(root, mask=mask_255)
    labels = {"semseg": {**MASKS["semseg"], "ignore": []}}
    with pytest.raises(SourceError, match=r"none of 6 samples looked at can be read.*255"):
        expect_useful(look_at(config_of(root, labels)))


def test_files_that_cannot_be_read_are_named_with_the_reason_and_a_remedy(root):
    write_photos(root, depth=millimetres)
    (root / "rgb/0004.jpg").write_bytes(b"<html>")
    (root / "depth/0002.png").write_bytes(b"")
    found = warnings_of(config_of(root, DEPTH))
    assert "train: 1 of 6 samples cannot be read (decode_failed), the first is " in found
    assert f"{root}/rgb/0004.jpg: " in found
    assert f"{root}/depth/0002.png: " in found
    assert "mend such files or take them out" in found
    assert "manifest.parquet" not in found


def test_a_description_that_most_samples_contradict_is_refused(root):
    write_photos(root, mask=mask_255)
    Image.new("L", Image.open(root / "mask/0000.png").size).save(root / "mask/0001.png")
    labels = {"semseg": {**MASKS["semseg"], "ignore": []}}
    with pytest.raises(SourceError, match=r"train: \d of 6 samples looked at cannot be read.*255"):
        expect_useful(look_at(config_of(root, labels)))


def test_where_no_image_can_be_read_the_first_is_named_and_none_is_called_a_copy(root):
    write_photos(root, depth=millimetres)
    for file in (root / "rgb").iterdir():
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    report = look_at(config_of(root, DEPTH))
    assert f"the first because of: {root}/rgb/0000.jpg: " in report.errors[0]
    assert "copies" not in str(report.warnings)
    assert "same image" not in str(report.warnings)


def test_a_class_that_only_the_test_split_shows_is_named(root):
    write_photos(root, ids=lambda made: np.minimum(made["ids"], 1))
    labels = {"semseg": {"pattern": "ids/{key}.png", "num_classes": 3}}
    report = look_at(config_of(root, labels))
    assert "train: 1 of 3 classes are never seen: 2; a predictor cannot learn them" in str(report)
    assert report.unseen == {"train": [2], "test": [2]}


@pytest.mark.parametrize(
    ("axis", "said"), [(1, "say labels.normals: {y: down}"), (2, "say labels.normals: {z: away}")]
)
def test_normals_that_point_the_other_way_are_told_with_the_field_to_set(root, axis, said):
    def turned(made):
        normals = made["normals"].copy()
        normals[..., axis] *= -1
        return normals_code(normals)

    write_photos(root, normal=turned)
    config = config_of(root, {"normals": {"pattern": "normal/{key}.png"}})
    assert said in warnings_of(config)


def test_swapped_channels_of_normals_are_told(root):
    write_photos(root, normal=lambda made: normals_code(made["normals"][..., ::-1]))
    found = warnings_of(config_of(root, {"normals": {"pattern": "normal/{key}.png"}}))
    assert "the channels seem to be swapped (x with z)" in found


def test_one_image_in_two_splits_is_told(root):
    write_photos(root, depth=millimetres)
    shutil.copy(root / "rgb/0000.jpg", root / "rgb/0002.jpg")
    shutil.copy(root / "rgb/0003.jpg", root / "rgb/0004.jpg")
    found = warnings_of(config_of(root, DEPTH))
    assert "train/0000 and test/0002 are the same image" in found
    assert "train: 1 of 6 images are copies of others, such as 0004 of 0003" in found


def test_copies_are_found_among_all_files_and_not_only_those_looked_at(root):
    write_photos(root, 300, depth=millimetres)
    shutil.copy(root / "rgb/0271.jpg", root / "rgb/0272.jpg")
    report = look_at(config_of(root, DEPTH))
    assert report.tallies["train"].images == LOOKED_AT
    assert "train/0271 and test/0272 are the same image" in "\n".join(report.warnings)


def test_images_turned_by_their_metadata_are_told_where_sizes_do_not(root):
    write_photos(root, depth=millimetres)
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(root / "rgb/0001.jpg") as picture:
        picture.save(root / "rgb/0001.jpg", exif=exif)
    found = warnings_of(config_of(root, DEPTH))
    assert "1 of 8 images looked at, such as 0001.jpg, are turned by their EXIF" in found


def test_vectors_that_were_stored_too_short_are_told(root):
    write_photos(root, normal=lambda made: normals_code(made["normals"] * 0.7))
    found = warnings_of(config_of(root, {"normals": {"pattern": "normal/{key}.png"}}))
    assert "stored vectors have mean length 0.7" in found


def test_of_a_large_split_an_even_spread_is_looked_at():
    source = MemorySource(200, shard_keys=64)
    report = report_of(source, ("depth",))
    assert report.tallies["train"].images == LOOKED_AT
    depth = report.tallies["train"].tasks["depth"]
    assert depth.least == 1
    assert depth.greatest > 190
    assert source.num_reads == LOOKED_AT


def test_what_seems_useless_is_looked_at_longer_before_it_is_refused():
    source = MemorySource(250, shard_keys=64)
    report = report_of(source, ("depth", "saliency"))
    assert LOOKED_AT < report.tallies["train"].images == 250 < TELLING
    assert "train: saliency: no image has such a label" in report.errors[0]


def test_rooms_and_prepared_shards_are_looked_at_too(tmp_path):
    write_source(tmp_path / "source")
    section = rooms_section(tmp_path / "source", train=8)
    assert look_at(make_config(tmp_path, source=section)).tallies["train"].images == 8
    section = {"kind": "shards", "root": str(tmp_path / "source"), "validation_fraction": 0.0}
    tree = make_config(tmp_path).model_dump(mode="json") | {"source": section}
    report = look_at(parse_config(tree, origin="test"))
    assert report.tallies["train"].tasks["normals"].images == 8


def test_the_report_is_kept_with_the_run_for_programs(root, tmp_path):
    write_photos(root, depth=millimetres)
    store = open_store(str(tmp_path / "run"))
    keep_data_report(store, look_at(config_of(root, DEPTH)))
    kept = json.loads(store.read_bytes(DATA_REPORT_FILE))
    assert kept["sizes"] == {"train": 6, "test": 2}
    assert kept["tallies"]["train"]["tasks"]["depth"]["images"] == 6


def test_files_that_are_not_used_are_said(root):
    write_photos(root, depth=millimetres)
    for name in ("._0000.jpg", "notes.pdf"):
        (root / "rgb" / name).touch()
    report = look_at(config_of(root, DEPTH))
    assert any("2 files not used: 1 hidden, 1 .pdf" in line for line in report.lines())
