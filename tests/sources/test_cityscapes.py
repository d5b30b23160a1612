"""Cityscapes in its two layouts, in small files of the official formats."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from schemas.errors import SampleError, SourceError
from sources.layouts.cityscapes import depth_from_disparity
from sources.layouts.protocol import LayoutOptions
from sources.layouts.registry import find_layout, recognise
from sources.prepare.prepare import PrepareRequest, open_files, prepare
from sources.report.oddities import Expected, describe_oddities
from tests.kit.layouts.cityscapes_files import (
    BASELINE_M,
    FOCAL_PX,
    KEYS,
    H,
    W,
    path_of,
    save,
    write_cityscapes,
    write_mtpsl,
)
from tests.kit.layouts.layout_checks import read_layout

# What cityscapesscripts' labels.py says, id by id; 255 where it says that it is not scored.
TRAIN_ID_OF = [255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12]
TRAIN_ID_OF += [13, 14, 15, 255, 255, 16, 17, 18]


def open_at(name, root, **options):
    return find_layout(name).open(root, LayoutOptions(**options))


def members_of(tar_path):
    with tarfile.open(tar_path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def convert(name, root, out):
    request = PrepareRequest(layout=name, root=root, out=str(out))
    return prepare(request, open_files(request))


class TestOfficialFiles:
    """leftImg8bit, gtFine, disparity, camera."""

    def test_every_label_value_is_what_was_put_into_the_files(self, tmp_path):
        written = write_cityscapes(tmp_path)
        samples = read_layout("cityscapes", tmp_path)
        assert tuple(samples) == KEYS["train"] + KEYS["test"]
        for key, sample in samples.items():
            image, ids, stored = written[key]
            np.testing.assert_array_equal(sample.image, image)
            np.testing.assert_array_equal(sample.labels["semseg"], np.array(TRAIN_ID_OF)[ids])
            for row, column in np.ndindex(H, W):
                disparity_px = (int(stored[row, column]) - 1) / 256
                depth_m = BASELINE_M * FOCAL_PX / disparity_px if disparity_px > 0 else np.inf
                wanted = depth_m if depth_m <= 65.535 else 0
                assert sample.labels["depth"][row, column] == pytest.approx(wanted, rel=1e-6)

    def test_a_disparity_of_the_whole_baseline_is_one_focal_length_away(self):
        stored = np.array([[0, 1, 256 * 10 + 1, 256 * 2 + 1]], np.uint16)
        depth_m = depth_from_disparity(stored, baseline_m=0.2, focal_px=2000)
        np.testing.assert_allclose(depth_m, [[0, 0, 40, 0]], rtol=1e-6)

    def test_shards_hold_the_same_values_when_read_with_tarfile(self, tmp_path):
        written = write_cityscapes(tmp_path / "in")
        prepared = convert("cityscapes", tmp_path / "in", tmp_path / "out")
        assert prepared.failures == ()
        members = members_of(tmp_path / "out" / "train-000000.tar")
        for key in KEYS["train"]:
            _, ids, stored = written[key]
            semseg = np.asarray(Image.open(io.BytesIO(members[f"{key}.semseg.png"])))
            np.testing.assert_array_equal(semseg, np.array(TRAIN_ID_OF)[ids])
            millimetres = np.asarray(Image.open(io.BytesIO(members[f"{key}.depth.png"])))
            disparity_px = (stored.astype(float) - 1) / 256
            near = stored > 257
            depth_mm = 1000 * BASELINE_M * FOCAL_PX / disparity_px[near]
            assert np.abs(millimetres[near] - depth_mm).max() <= 0.51
            assert not millimetres[~near].any()
            assert json.loads(members[f"{key}.json"])["group"] == key.rpartition("_")[0]

    def test_train_ids_are_taken_as_they_are_if_they_are_there(self, tmp_path):
        write_cityscapes(tmp_path)
        key = KEYS["train"][0]
        ids = (np.arange(H * W) % 20).reshape(H, W).astype(np.uint8)
        ids[ids == 19] = 255
        save(path_of(tmp_path, "gtFine", "train", key, "gtFine_labelTrainIds.png"), ids)
        sample = open_at("cityscapes", tmp_path).read(key)
        np.testing.assert_array_equal(sample.labels["semseg"], ids)

    def test_the_folder_above_will_do(self, tmp_path):
        write_cityscapes(tmp_path / "cityscapes")
        assert recognise(tmp_path) == ("cityscapes",)
        assert open_at("cityscapes", tmp_path).read(KEYS["test"][0]).labels

    def test_the_notes_say_what_zip_is_missing_and_how_far_depth_reaches(self, tmp_path):
        write_cityscapes(tmp_path)
        files = open_at("cityscapes", tmp_path)
        assert files.tasks == ("depth", "semseg")
        assert [note for note in files.notes if "65.535 m" in note] == list(files.notes)
        (tmp_path / "camera").rename(tmp_path / "other")
        files = open_at("cityscapes", tmp_path)
        assert files.tasks == ("semseg",)
        assert files.notes == (
            f"{tmp_path}/camera: not there; unpack camera_trainvaltest.zip, or go on without depth",
        )
        (tmp_path / "gtFine").rename(tmp_path / "another")
        with pytest.raises(SourceError, match="found images but no labels; unpack"):
            open_at("cityscapes", tmp_path)

    def test_a_missing_split_is_an_error(self, tmp_path):
        write_cityscapes(tmp_path)
        (tmp_path / "leftImg8bit" / "val").rename(tmp_path / "val")
        with pytest.raises(SourceError, match="leftImg8bit/val: not there; unpack leftImg8bit_t"):
            open_at("cityscapes", tmp_path)

    @pytest.mark.parametrize(
        ("kind", "ending", "content", "reason", "complaint"),
        [
            ("gtFine", "gtFine_labelIds.png", np.full((H, W), 34, np.uint8),
             "class_id_out_of_range", "0 to 33 .*found 34; unpack"),
            ("gtFine", "gtFine_labelTrainIds.png", np.full((H, W), 19, np.uint8),
             "class_id_out_of_range", "0 to 18 or 255 .*found 19; unpack"),
            ("gtFine", "gtFine_labelIds.png", np.zeros((H, W, 3), np.uint8),
             "label_format", "wanted 8-bit grey, found a colour picture; unpack"),
            ("disparity", "disparity.png", np.zeros((H, W), np.uint8),
             "label_format", "wanted 16-bit grey, found 8-bit grey; unpack"),
            ("disparity", "disparity.png", np.ones((H, W + 1), np.uint16),
             "label_size_differs", "8 x 16, its depth 8 x 17"),
            ("camera", "camera.json", "{}", "camera_invalid", "wanted extrinsic.baseline"),
            ("camera", "camera.json", "not json", "camera_invalid", "JSONDecodeError.*; unpack"),
            ("camera", "camera.json", '{"extrinsic": {"baseline": 0}, "intrinsic": {"fx": 1}}',
             "camera_invalid", "above 0, found"),
            ("camera", "camera.json", None, "file_missing", "found none; unpack"),
            ("disparity", "disparity.png", None, "file_missing", "found none; unpack"),
        ],
    )  # fmt: skip
    def test_a_sample_that_cannot_be_read_names_its_file(
        self, tmp_path, kind, ending, content, reason, complaint
    ):
        write_cityscapes(tmp_path)
        key = KEYS["train"][0]
        path = path_of(tmp_path, kind, "train", key, ending)
        path.unlink(missing_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        elif content is not None:
            save(path, content)
        with pytest.raises(SampleError, match=rf"{key}.*{complaint}") as caught:
            open_at("cityscapes", tmp_path).read(key)
        assert caught.value.reason == reason
        assert open_at("cityscapes", tmp_path).read(KEYS["train"][1]).labels


class TestArrays:
    """MTAN's and MTPSL's .npy files."""

    @pytest.mark.parametrize("classes", [7, 19])
    def test_every_label_value_is_what_was_put_into_the_files(self, tmp_path, classes):
        written = write_mtpsl(tmp_path)
        options = LayoutOptions(num_classes=classes)
        samples = read_layout("cityscapes_mtpsl", tmp_path, options)
        assert tuple(samples) == ("train_000000", "train_000001", "train_000002", "test_000000")
        for key, sample in samples.items():
            image, arrays = written[key]
            stored = arrays[f"label_{classes}"].astype(int)
            np.testing.assert_array_equal(sample.image, image)
            np.testing.assert_array_equal(
                sample.labels["semseg"], np.where(stored < 0, 255, stored)
            )
            np.testing.assert_array_equal(sample.labels["depth"], arrays["depth"][..., 0])
        names = open_at("cityscapes_mtpsl", tmp_path, num_classes=classes).class_names
        assert (len(names), names[-1]) == (classes, "vehicle" if classes == 7 else "bicycle")

    def test_shards_keep_the_disparities_to_a_thousandth(self, tmp_path):
        written = write_mtpsl(tmp_path / "in")
        prepared = convert("cityscapes_mtpsl", tmp_path / "in", tmp_path / "out")
        assert prepared.failures == ()
        members = members_of(tmp_path / "out" / "test-000000.tar")
        stored = written["test_000000"][1]["depth"][..., 0]
        code = np.asarray(Image.open(io.BytesIO(members["test_000000.depth.png"])))
        np.testing.assert_allclose(code[stored > 0] / 1000, stored[stored > 0], atol=5.1e-4)
        np.testing.assert_array_equal(code == 0, stored == 0)

    def test_seven_classes_are_the_default_and_the_notes_say_what_depth_is(self, tmp_path):
        write_mtpsl(tmp_path)
        files = open_at("cityscapes_mtpsl", tmp_path)
        assert files.num_classes == 7
        assert "disparities (0 to about 0.49" in files.notes[0]
        assert "not metres" in files.notes[0]

    def test_a_set_of_classes_that_is_not_there_is_an_error(self, tmp_path):
        write_mtpsl(tmp_path, sets=(19,))
        assert open_at("cityscapes_mtpsl", tmp_path).num_classes == 19
        with pytest.raises(SourceError, match=r"--classes 7: .*has label sets of 19 classes"):
            open_at("cityscapes_mtpsl", tmp_path, num_classes=7)

    def test_numbers_are_in_order_and_other_names_an_error(self, tmp_path):
        write_mtpsl(tmp_path / "cityscapes2", train=11)
        files = open_at("cityscapes_mtpsl", tmp_path)
        assert files.splits()["train"] == tuple(f"train_{number:06d}" for number in range(11))
        (tmp_path / "cityscapes2/train/image/notes.npy").write_bytes(b"")
        with pytest.raises(SourceError, match=r"notes\.npy: wanted files named 0\.npy"):
            open_at("cityscapes_mtpsl", tmp_path)

    def test_a_missing_folder_of_a_split_is_an_error(self, tmp_path):
        write_mtpsl(tmp_path)
        (tmp_path / "val" / "label_7").rename(tmp_path / "label_7")
        with pytest.raises(SourceError, match=r"val/label_7: not there; unpack the whole"):
            open_at("cityscapes_mtpsl", tmp_path)
        assert open_at("cityscapes_mtpsl", tmp_path, tasks=("depth",)).tasks == ("depth",)

    @pytest.mark.parametrize(
        ("name", "array", "reason", "complaint"),
        [
            ("label_7", np.full((H, W), 7.0), "class_id_out_of_range", "0 to 6 or -1 .*found 7;"),
            ("label_7", np.full((H, W), 0.5), "class_id_out_of_range", "found 0.5; unpack"),
            ("label_7", np.zeros((H, W + 2)), "label_size_differs", "8 x 16, its semseg 8 x 18"),
            ("depth", np.full((H, W, 1), 12.5), "value_out_of_range", "at most 1, found up to 12"),
            ("image", np.full((H, W, 3), 255.0), "value_out_of_range", r"\[0, 1\], found 255"),
            (
                "depth",
                np.array([{}], dtype=object),
                "decode_failed",
                "allow_pickle=False.*; unpack",
            ),
        ],
    )
    def test_a_sample_that_cannot_be_read_names_its_file(
        self, tmp_path, name, array, reason, complaint
    ):
        write_mtpsl(tmp_path)
        np.save(tmp_path / "train" / name / "0.npy", array, allow_pickle=True)
        with pytest.raises(SampleError, match=rf"0\.npy.*{complaint}") as caught:
            open_at("cityscapes_mtpsl", tmp_path).read("train_000000")
        assert caught.value.reason == reason
        assert open_at("cityscapes_mtpsl", tmp_path).read("train_000001").labels


def test_the_report_compares_with_the_published_counts_and_sizes(tmp_path):
    write_cityscapes(tmp_path / "in")
    official = find_layout("cityscapes")
    expected = Expected(
        official_counts=official.official_counts,
        official_size=official.official_size,
        num_classes=19,
    )
    tallies = convert("cityscapes", tmp_path / "in", tmp_path / "out").tallies
    remarks = "\n".join(describe_oddities(tallies, expected))
    assert "train: 3 images, but the published data set has 2975" in remarks
    assert "test: 1 images, but the published data set has 500" in remarks
    assert "images of 8 x 16 (height x width), but the published ones are 1024 x 2048" in remarks
    assert dict(find_layout("cityscapes_mtpsl").official_counts) == {"train": 2975, "test": 500}
