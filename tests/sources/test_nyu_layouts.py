"""The six published layouts of NYUv2, in small files of the official formats."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from schemas.errors import SampleError, SourceError
from sources.layouts.protocol import LayoutOptions
from sources.layouts.registry import LAYOUTS, find_layout, recognise
from tests.kit.layouts import nyu_files
from tests.kit.layouts.layout_checks import read_layout
from tests.kit.layouts.small_copies import COPIES

WRITERS = {name: write for name, write in COPIES.items() if name.startswith("nyu")}


def open_at(name, root, **options):
    return find_layout(name).open(root, LayoutOptions(**options))


def expected_ids(pair):
    """Stored 0 is ignored (255), all others are one lower."""
    return np.where(pair.ids == 0, 255, pair.ids.astype(int) - 1)


def assert_labels(sample, pair, *, image=True):
    if image:
        np.testing.assert_array_equal(sample.image, pair.image)
    for task, label in sample.labels.items():
        if task == "normals":
            np.testing.assert_allclose(label, pair.vectors, atol=1e-5)
            assert not label[:2, :3].any()
        elif task == "depth":
            np.testing.assert_allclose(label, pair.depth_m, atol=1e-6)
        elif task == "semseg":
            np.testing.assert_array_equal(label, expected_ids(pair))
        else:
            np.testing.assert_array_equal(label, pair.edge / 255)


@pytest.mark.parametrize("name", WRITERS)
def test_every_label_value_is_what_was_put_into_the_files(tmp_path, name):
    pairs = WRITERS[name](tmp_path)
    for key, sample in read_layout(name, tmp_path).items():
        is_jpeg = name in ("nyud_mt_tgz", "nyu_bts")
        assert_labels(sample, pairs[key], image=not is_jpeg)


def test_the_tasks_and_classes_are_those_of_the_layout(tmp_path):
    found = {}
    for name, write in WRITERS.items():
        write(tmp_path / name)
        files = open_at(name, tmp_path / name)
        found[name] = (files.tasks, files.num_classes)
    everything = ("normals", "depth", "semseg", "boundaries")
    assert found == {
        "nyu_depth_v2": (("depth",), 0),
        "nyu_bae": (("normals",), 0),
        "nyud_mt_atrc": (everything, 40),
        "nyud_mt_tgz": (everything, 40),
        "nyu_mtpsl": (("normals", "depth", "semseg"), 13),
        "nyu_bts": (("depth",), 0),
    }
    assert set(found) <= set(LAYOUTS)


def test_the_folder_above_the_data_set_will_do(tmp_path):
    nyu_files.write_atrc(tmp_path / "NYUDv2")
    nyu_files.write_bae(tmp_path / "b" / "nyu", {"train": 1, "test": 1})
    nyu_files.write_mtpsl(tmp_path / "m" / "nyuv2")
    assert recognise(tmp_path) == ("nyud_mt_atrc",)
    assert recognise(tmp_path / "b") == ("nyu_bae",)
    assert recognise(tmp_path / "m") == ("nyu_mtpsl",)


def test_only_the_tasks_asked_for_are_decoded(tmp_path):
    nyu_files.write_atrc(tmp_path)
    (tmp_path / "normals" / "0000.png").write_bytes(b"torn")
    files = open_at("nyud_mt_atrc", tmp_path, tasks=("depth",))
    assert set(files.read("0000").labels) == {"depth"}
    assert files.num_classes == 0
    with pytest.raises(SourceError, match=r"no labels of saliency there.*leave saliency out"):
        open_at("nyud_mt_atrc", tmp_path, tasks=("saliency",))


def test_signs_turn_the_axes_of_normals_and_leave_invalid_ones_zero(tmp_path):
    pairs = nyu_files.write_bae(tmp_path, {"train": 1, "test": 1})
    files = open_at("nyu_bae", tmp_path, normals_signs=(-1.0, 1.0, -1.0))
    turned = files.read("000000").labels["normals"]
    np.testing.assert_allclose(turned, pairs["000000"].vectors * [-1, 1, -1], atol=1e-5)
    assert not np.signbit(turned[:2, :3]).any()


def test_captions_are_read_and_may_be_missing(tmp_path):
    nyu_files.write_bae(tmp_path, {"train": 2, "test": 1})
    (tmp_path / "train" / "caption" / "000001.txt").unlink()
    files = open_at("nyu_bae", tmp_path)
    assert [files.read(key).caption for key in files.splits()["train"]] == ["room 000000", ""]


def test_a_caption_that_cannot_be_read_costs_no_image(tmp_path):
    nyu_files.write_bae(tmp_path, {"train": 2, "test": 1})
    (tmp_path / "train" / "caption" / "000000.txt").write_bytes("\ufeffa room".encode("utf-16"))
    (tmp_path / "train" / "caption" / "000001.txt").write_bytes(b"caf\xe9")
    files = open_at("nyu_bae", tmp_path)
    assert [files.read(key).caption for key in files.splits()["train"]] == ["a room", ""]


def test_the_lists_of_the_two_multi_task_archives_decide_the_splits(tmp_path):
    nyu_files.write_atrc(tmp_path, train=2, test=3)
    splits = open_at("nyud_mt_atrc", tmp_path).splits()
    assert splits == {"train": ("0000", "0001"), "test": ("0002", "0003", "0004")}


@pytest.mark.parametrize(
    ("write", "wrong", "right"),
    [
        (nyu_files.write_atrc, "nyud_mt_tgz", "nyud_mt_atrc"),
        (nyu_files.write_tgz, "nyud_mt_atrc", "nyud_mt_tgz"),
    ],
)
def test_the_two_multi_task_archives_are_told_apart(tmp_path, write, wrong, right):
    write(tmp_path)
    assert recognise(tmp_path) == (right,)
    with pytest.raises(SourceError, match=rf"images: .*other NYUD-MT archive.*layout {right}"):
        open_at(wrong, tmp_path)


def test_a_missing_list_names_the_file_and_the_remedy(tmp_path):
    nyu_files.write_atrc(tmp_path)
    (tmp_path / "gt_sets" / "val.txt").unlink()
    with pytest.raises(SourceError, match=r"gt_sets/val\.txt: .*missing; unpack the whole archive"):
        open_at("nyud_mt_atrc", tmp_path)


def test_an_image_in_both_lists_is_an_error(tmp_path):
    nyu_files.write_atrc(tmp_path)
    (tmp_path / "gt_sets" / "val.txt").write_text("0003\n0001\n")
    with pytest.raises(SourceError, match=r"0001\.png .*same key.*correct the lists"):
        open_at("nyud_mt_atrc", tmp_path)


def test_a_missing_folder_of_labels_leaves_that_task_out_and_says_so(tmp_path):
    nyu_files.write_atrc(tmp_path)
    (tmp_path / "edge").rename(tmp_path / "other")
    files = open_at("nyud_mt_atrc", tmp_path)
    assert files.tasks == ("normals", "depth", "semseg")
    assert any(note.startswith(f"{tmp_path / 'edge'}: not there") for note in files.notes)


def test_a_missing_folder_of_a_split_is_an_error(tmp_path):
    nyu_files.write_mtpsl(tmp_path)
    (tmp_path / "val" / "depth").rename(tmp_path / "depth")
    with pytest.raises(SourceError, match=r"val/depth: not there; unpack the whole archive"):
        open_at("nyu_mtpsl", tmp_path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda root: nyu_files.save_png(
                root / "segmentation/0000.png", np.full((12, 16), 41, np.uint8)
            ),
            "class_id_out_of_range",
        ),
        (
            lambda root: (root / "normals/0000.png").write_bytes(
                (root / "normals/0000.png").read_bytes()[:-30]
            ),
            "decode_failed",
        ),
        (lambda root: (root / "depth/0000.npy").write_bytes(b"no array"), "decode_failed"),
        (
            lambda root: (root / "depth/0000.npy").write_bytes(
                (root / "depth/0000.npy").read_bytes()[:-8]
            ),
            "decode_failed",
        ),
        (lambda root: np.save(root / "depth/0000.npy", np.ones((4, 5, 6, 7))), "decode_failed"),
        (
            lambda root: np.save(root / "depth/0000.npy", np.ones((12, 15), np.float32)),
            "label_size_differs",
        ),
        (lambda root: (root / "images/0000.png").unlink(), "file_missing"),
        (
            lambda root: nyu_files.save_png(
                root / "normals/0000.png", np.zeros((12, 16), np.uint8)
            ),
            "label_format",
        ),
    ],
)
def test_a_sample_that_cannot_be_read_names_its_file(tmp_path, damage, reason):
    nyu_files.write_atrc(tmp_path)
    damage(tmp_path)
    files = open_at("nyud_mt_atrc", tmp_path)
    with pytest.raises(SampleError, match="0000") as caught:
        files.read("0000")
    assert caught.value.reason == reason
    assert str(tmp_path) in caught.value.detail
    assert files.read("0001").labels


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    nyu_files.write_mtpsl(tmp_path)
    np.save(tmp_path / "train/depth/0.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SampleError, match="decode_failed"):
        open_at("nyu_mtpsl", tmp_path).read("train_000000")


def test_values_that_no_image_or_vector_has_are_refused(tmp_path):
    nyu_files.write_mtpsl(tmp_path / "m")
    np.save(tmp_path / "m/train/image/0.npy", np.full((12, 16, 3), 200, np.float32))
    with pytest.raises(SampleError, match=r"value_out_of_range: .*0\.npy.*\[0, 1\]"):
        open_at("nyu_mtpsl", tmp_path / "m").read("train_000000")
    nyu_files.write_tgz(tmp_path / "t")
    np.save(tmp_path / "t/normals/0000.npy", np.full((12, 16, 3), 200, np.float32))
    with pytest.raises(SampleError, match=r"value_out_of_range: .*0000\.npy"):
        open_at("nyud_mt_tgz", tmp_path / "t").read("0000")


class TestLabelledMat:
    """The original HDF5 file."""

    def test_the_split_is_counted_from_one_and_keys_from_zero(self, tmp_path):
        nyu_files.write_mat(tmp_path, train=3, test=2)
        splits = open_at("nyu_depth_v2", tmp_path).splits()
        assert splits == {"train": ("000002", "000003", "000004"), "test": ("000000", "000001")}

    def test_raw_names_become_classes_through_the_map_beside_the_file(self, tmp_path):
        pairs = nyu_files.write_mat(tmp_path)
        nyu_files.write_class_map(tmp_path / "classMapping40.mat")
        files = open_at("nyu_depth_v2", tmp_path)
        assert files.tasks == ("depth", "semseg")
        assert (files.num_classes, files.class_names[0]) == (40, "wall")
        for key, sample in read_layout("nyu_depth_v2", tmp_path).items():
            assert_labels(sample, pairs[key])

    def test_a_map_may_be_a_text_of_one_class_a_line(self, tmp_path):
        pairs = nyu_files.write_mat(tmp_path)
        lines = ["0"] * 850 + [str(1 + i % 5) for i in range(40)]
        (tmp_path / "five.txt").write_text("\n".join(lines))
        files = open_at("nyu_depth_v2", tmp_path, class_map=tmp_path / "five.txt")
        ids = files.read("000001").labels["semseg"]
        stored = pairs["000001"].ids.astype(int)
        np.testing.assert_array_equal(ids, np.where(stored == 0, 255, (stored - 1) % 5))
        assert (files.num_classes, files.class_names) == (5, ())

    def test_without_a_map_the_notes_say_how_to_get_classes_and_normals(self, tmp_path):
        nyu_files.write_mat(tmp_path)
        notes = "\n".join(open_at("nyu_depth_v2", tmp_path).notes)
        assert "--class-map" in notes
        assert "--normals" in notes

    def test_normals_come_from_a_folder_beside(self, tmp_path):
        pairs = nyu_files.write_mat(tmp_path / "mat")
        for key, pair in pairs.items():
            nyu_files.save_png(tmp_path / "norm" / f"{key}.png", pair.codes)
        options = LayoutOptions(normals_dir=tmp_path / "norm")
        for key, sample in read_layout("nyu_depth_v2", tmp_path / "mat", options).items():
            assert set(sample.labels) == {"normals", "depth"}
            assert_labels(sample, pairs[key])
        with pytest.raises(SourceError, match=r"wanted 000002\.png"):
            open_at("nyu_depth_v2", tmp_path / "mat", normals_dir=tmp_path)

    def test_samples_of_one_scene_are_one_group(self, tmp_path):
        nyu_files.write_mat(tmp_path)
        samples = read_layout("nyu_depth_v2", tmp_path)
        groups = [samples[f"{i:06d}"].meta["group"] for i in range(5)]
        assert groups == [f"kitchen_{i // 2:04d}" for i in range(5)]

    def test_a_missing_split_file_is_an_error(self, tmp_path):
        nyu_files.write_mat(tmp_path)
        (tmp_path / "splits.mat").unlink()
        with pytest.raises(SourceError, match=r"splits\.mat: not there; fetch splits\.mat"):
            open_at("nyu_depth_v2", tmp_path)

    @pytest.mark.parametrize(
        ("train", "complaint"),
        [([4, 6], "wanted numbers 1 to 5"), ([0, 4], "wanted numbers 1 to 5"), ([2, 4], "twice")],
    )
    def test_a_split_that_does_not_fit_is_an_error(self, tmp_path, train, complaint):
        nyu_files.write_mat(tmp_path)
        indices = {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array([[1], [2]])}
        scipy.io.savemat(tmp_path / "splits.mat", indices)
        with pytest.raises(SourceError, match=rf"splits\.mat: t.*{complaint}"):
            open_at("nyu_depth_v2", tmp_path)

    @pytest.mark.parametrize("keep", [0, 100, 600, 2000])
    def test_a_torn_file_is_an_error_with_the_published_checksum(self, tmp_path, keep):
        nyu_files.write_mat(tmp_path)
        path = tmp_path / "nyu_depth_v2_labeled.mat"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(SourceError, match=r"labeled\.mat: .*md5 520609c519"):
            open_at("nyu_depth_v2", tmp_path)

    @pytest.mark.parametrize("keep", [0, 60, 130, 180, 230])
    def test_a_torn_split_file_is_an_error(self, tmp_path, keep):
        nyu_files.write_mat(tmp_path)
        path = tmp_path / "splits.mat"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(SourceError, match=r"splits\.mat: "):
            open_at("nyu_depth_v2", tmp_path)

    def test_links_to_other_files_are_not_followed(self, tmp_path):
        nyu_files.write_mat(tmp_path)
        with h5py.File(tmp_path / "secret.h5", "w") as other:
            other["depths"] = np.ones((5, 16, 12), np.float32)
        with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "a") as file:
            del file["depths"]
            file["depths"] = h5py.ExternalLink("secret.h5", "/depths")
        with pytest.raises(SourceError, match="depths is a link"):
            open_at("nyu_depth_v2", tmp_path)

    def test_numbers_that_lie_in_other_files_are_not_read(self, tmp_path):
        nyu_files.write_mat(tmp_path)
        (tmp_path / "raw.bin").write_bytes(bytes(5 * 16 * 12 * 4))
        with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "a") as file:
            del file["depths"]
            file.create_dataset(
                "depths", (5, 16, 12), np.float32, external=[(str(tmp_path / "raw.bin"), 0, 3840)]
            )
        with pytest.raises(SourceError, match="lie in other files"):
            open_at("nyu_depth_v2", tmp_path)

    def test_a_file_of_another_shape_is_an_error(self, tmp_path):
        nyu_files.write_mat(tmp_path)
        with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "a") as file:
            del file["images"]
        with pytest.raises(SourceError, match="no variable images"):
            open_at("nyu_depth_v2", tmp_path)

    def test_an_id_beyond_the_map_is_a_failed_sample(self, tmp_path):
        nyu_files.write_mat(tmp_path)
        (tmp_path / "short.txt").write_text("1\n2\n")
        files = open_at("nyu_depth_v2", tmp_path, class_map=tmp_path / "short.txt")
        with pytest.raises(SampleError, match=r"class_id_out_of_range: .*labels 0: stored id"):
            files.read("000000")


def test_a_jpeg_image_of_the_older_archive_is_close_to_what_was_stored(tmp_path):
    nyu_files.write_tgz(tmp_path)
    sample = open_at("nyud_mt_tgz", tmp_path).read("0000")
    with Image.open(tmp_path / "images" / "0000.jpg") as picture:
        np.testing.assert_array_equal(sample.image, np.asarray(picture.convert("RGB")))
