"""ADE20K for scene parsing, in small files of the official format."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from schemas.errors import SampleError, SourceError
from sources.layouts.protocol import LayoutOptions
from sources.layouts.registry import find_layout, recognise
from sources.prepare.prepare import PrepareRequest, open_files, prepare, resolve_layout
from sources.report.oddities import Expected, describe_oddities
from tests.kit.layouts.ade20k_files import ARCHIVE, SIZES, part_of, write_ade20k
from tests.kit.layouts.layout_checks import read_layout


def open_at(root, **options):
    return find_layout("ade20k").open(root, LayoutOptions(**options))


def expected(ids):
    return np.where(ids == 0, 255, ids.astype(int) - 1)


@pytest.fixture
def ade(tmp_path):
    return write_ade20k(tmp_path)


def test_every_id_becomes_one_lower_and_other_is_ignored(tmp_path, ade):
    samples = read_layout("ade20k", tmp_path)
    assert set(samples) == set(SIZES)
    for number, (key, sample) in enumerate(samples.items()):
        np.testing.assert_array_equal(sample.labels["semseg"], expected(ade[key]))
        assert list(sample.labels["semseg"][0, :3]) == [255, 0, 149]
        assert (sample.image == 40 * (number + 1)).all()
        assert sample.meta["file"] == f"images/{part_of(key)}/{key}.jpg"


def test_the_validation_images_are_the_test_split_and_classes_have_names(tmp_path, ade):
    files = open_at(tmp_path)
    assert files.splits() == {
        "train": ("ADE_train_00000001", "ADE_train_00000002"),
        "test": ("ADE_val_00000001",),
    }
    assert files.num_classes == 150
    assert files.class_names[::149] == ("name1", "name150")
    assert files.notes == ()
    assert dict(find_layout("ade20k").official_counts) == {"train": 20_210, "test": 2_000}


def test_shards_hold_the_same_values_when_read_with_tarfile(tmp_path, ade):
    root, out = tmp_path, tmp_path / "out"
    request = PrepareRequest(layout="ade20k", root=root, out=str(out))
    prepared = prepare(request, open_files(request))
    assert prepared.failures == ()
    assert dict(prepared.tallies["train"].sizes) == {"8 x 12": 1, "10 x 6": 1}
    with tarfile.open(out / "train-000000.tar") as tar:
        for key in open_files(request).splits()["train"]:
            data = tar.extractfile(f"{key}.semseg.png").read()
            np.testing.assert_array_equal(
                np.asarray(Image.open(io.BytesIO(data))), expected(ade[key])
            )


def test_the_report_names_other_counts_and_mixed_sizes(tmp_path, ade):
    request = PrepareRequest(layout="ade20k", root=tmp_path, out=str(tmp_path / "out"))
    tallies = prepare(request, open_files(request)).tallies
    counts = find_layout("ade20k").official_counts
    remarks = "\n".join(
        describe_oddities(tallies, Expected(official_counts=counts, num_classes=150))
    )
    assert "train: 2 images, but the published data set has 20210" in remarks
    assert "images have 3 sizes, such as 10 x 6, 7 x 9, 8 x 12; training needs one" in remarks


def test_the_folder_above_will_do(tmp_path):
    write_ade20k(tmp_path / ARCHIVE)
    assert recognise(tmp_path) == ("ade20k",)
    sample = open_at(tmp_path).read("ADE_val_00000001")
    assert sample.meta["file"] == f"{ARCHIVE}/images/validation/ADE_val_00000001.jpg"


def test_a_palette_label_is_read_as_indices(tmp_path, ade):
    path = tmp_path / "annotations/training/ADE_train_00000001.png"
    picture = Image.fromarray(ade["ADE_train_00000001"], mode="P")
    picture.putpalette(bytes(range(256)) * 3)
    picture.save(path)
    sample = open_at(tmp_path).read("ADE_train_00000001")
    np.testing.assert_array_equal(sample.labels["semseg"], expected(ade["ADE_train_00000001"]))


def test_the_full_ade20k_is_another_data_set(tmp_path):
    (tmp_path / "images" / "ADE" / "training").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"looks like no known layout"):
        resolve_layout("auto", tmp_path)
    with pytest.raises(SourceError, match=r"images/training: not there.*not the full ADE20K"):
        open_at(tmp_path)


def test_a_split_without_images_is_an_error(tmp_path, ade):
    (tmp_path / "images/validation/ADE_val_00000001.jpg").unlink()
    with pytest.raises(SourceError, match="found no images of test; unpack"):
        open_at(tmp_path)


def test_without_its_file_of_names_the_classes_have_none_and_a_note_says_so(tmp_path, ade):
    path = tmp_path / "objectInfo150.txt"
    path.write_text("Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t10\t1\twall\n")
    with pytest.raises(SourceError, match=r"objectInfo150\.txt: .*none with 2; fetch it again"):
        open_at(tmp_path)
    path.unlink()
    files = open_at(tmp_path)
    assert files.class_names == ()
    assert "objectInfo150.txt: not there" in files.notes[0]


@pytest.mark.parametrize(
    ("label", "reason", "complaint"),
    [
        (np.full((8, 12), 151, np.uint8), "class_id_out_of_range", "1 to 150 or 0.*found 151"),
        (np.zeros((8, 11), np.uint8), "label_size_differs", "8 x 12, its semseg 8 x 11"),
        (
            np.zeros((8, 12, 3), np.uint8),
            "label_format",
            "wanted 8-bit grey, found a colour picture; unpack",
        ),
        (None, "file_missing", "wanted a file, found none; unpack"),
    ],
)
def test_a_label_that_cannot_be_used_names_its_file(tmp_path, ade, label, reason, complaint):
    path = tmp_path / "annotations/training/ADE_train_00000001.png"
    path.unlink()
    if label is not None:
        Image.fromarray(label).save(path)
    with pytest.raises(SampleError, match=rf"ADE_train_00000001.*{complaint}") as caught:
        open_at(tmp_path).read("ADE_train_00000001")
    assert caught.value.reason == reason
    assert open_at(tmp_path).read("ADE_train_00000002").labels


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    write_ade20k(tmp_path / "in")
    outside = tmp_path / "elsewhere.png"
    label = tmp_path / "in/annotations/training/ADE_train_00000001.png"
    label.rename(outside)
    label.symlink_to(outside)
    with pytest.raises(SampleError, match=r"outside_root: .*leads to .*elsewhere\.png"):
        open_at(tmp_path / "in").read("ADE_train_00000001")


def test_what_systems_leave_behind_is_no_image_and_a_suffix_counts_in_any_case(tmp_path, ade):
    images = find_layout("ade20k").open(tmp_path, LayoutOptions()).images["train"]
    first, second = images.values()
    first.with_name(f"._{first.name}").write_bytes(b"\0\5\x16\7")
    second.rename(second.with_suffix(".JPG"))
    assert open_at(tmp_path).splits()["train"] == tuple(images)
    samples = read_layout("ade20k", tmp_path)
    assert set(samples) == set(SIZES)
