"""Images as users have them."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from deployment.inputs import as_rgb, find_images, name_of
from perception.shapes import ShapeError
from schemas.errors import ConfigError, SampleError
from tests.kit.small_model import gradient_image

IMAGE = gradient_image(30, 50)


def test_a_path_a_picture_and_an_array_are_the_same_image(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    for form in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(IMAGE), IMAGE):
        np.testing.assert_array_equal(as_rgb(form), IMAGE)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_pictures_of_any_mode_become_rgb(mode):
    found = as_rgb(Image.fromarray(IMAGE).convert(mode))
    assert found.dtype == np.uint8
    assert found.shape == (30, 50, 3)


def test_sixteen_bit_grey_keeps_its_upper_bits():
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    np.testing.assert_array_equal(as_rgb(Image.fromarray(grey))[..., 1].ravel(), np.arange(256))


def test_a_turned_photograph_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(IMAGE).rotate(90, expand=True)
    turned.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(as_rgb(tmp_path / "a.png"), IMAGE)
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(as_rgb(picture), IMAGE)


def test_a_grey_array_becomes_rgb():
    np.testing.assert_array_equal(as_rgb(IMAGE[..., 0])[..., 2], IMAGE[..., 0])


@pytest.mark.parametrize(
    "array", [IMAGE / 255, IMAGE[..., :2], IMAGE[None], np.zeros((0, 4, 3), np.uint8)]
)
def test_other_arrays_are_an_error(array):
    with pytest.raises(ShapeError, match="image: wanted"):
        as_rgb(array)


def test_a_file_that_is_no_image_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(SampleError, match="decode_failed"):
        as_rgb(tmp_path / "a.jpg")


def test_a_file_far_too_large_for_a_picture_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SampleError, match="too_large"):
        as_rgb(tmp_path / "a.png")


def test_only_paths_have_names():
    assert name_of("photographs/a.jpg") == "a.jpg"
    assert name_of(IMAGE) == name_of(Image.fromarray(IMAGE)) == ""


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_is_searched_with_its_sub_folders(tmp_path):
    touch(tmp_path, "b.JPG", "a.jpeg", "sub/c.png", "notes.txt", ".hidden.png", ".git/d.png")
    assert list(find_images([tmp_path]).files) == ["a", "b", "sub/c"]


def test_images_that_differ_in_the_suffix_alone_keep_it(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "b.png")
    assert list(find_images([tmp_path]).files) == ["a.jpg", "a.png", "b"]


def test_an_image_that_is_named_twice_is_taken_once(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    assert list(find_images([tmp_path / "b.jpg", tmp_path]).files) == ["b", "a"]


def test_two_images_that_would_be_written_alike_are_an_error(tmp_path):
    touch(tmp_path, "one/a.jpg", "two/a.jpg")
    with pytest.raises(ConfigError, match=r"one/a\.jpg and .*two/a\.jpg would both be written as"):
        find_images([tmp_path / "one", tmp_path / "two"])


def test_a_folder_without_images_and_a_path_without_a_file_are_errors(tmp_path):
    touch(tmp_path, "notes.txt", "a.DNG", "b.DNG")
    with pytest.raises(
        ConfigError, match=r"found no \.\w+, .* 3 files not used: 2 \.DNG .*1 \.txt"
    ):
        find_images([tmp_path])
    with pytest.raises(ConfigError, match=r"missing\.jpg: no such file"):
        find_images([tmp_path / "missing.jpg"])


def test_what_is_not_used_is_counted(tmp_path):
    touch(tmp_path, "a.jpg", "._a.jpg", "__MACOSX/a.jpg", "Thumbs.db", "b.pdf", "sub/c.pdf")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    found = find_images([tmp_path])
    assert list(found.files) == ["a"]
    assert found.unused.describe() == (
        f"6 files not used: 3 hidden, 2 .pdf, 1 link that leads nowhere ({tmp_path / 'gone.jpg'})"
    )


def test_linked_folders_are_searched_too(tmp_path):
    touch(tmp_path, "photographs/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photographs/album").symlink_to("../elsewhere")
    assert list(find_images([tmp_path / "photographs"]).files) == ["a", "album/b"]


def test_results_below_the_photographs_are_no_photographs(tmp_path):
    touch(tmp_path, "a.jpg", "new/half.png", "old/predictions.json", "old/a.depth.png")
    touch(tmp_path, "pairs/samples.json", "pairs/b.image.png", "run/config.resolved.yaml")
    found = find_images([tmp_path], out=tmp_path / "new")
    assert list(found.files) == ["a"]
    assert found.unused.counts == {"folders of results": 3}


def test_a_name_that_is_no_text_costs_only_its_file(tmp_path):
    touch(tmp_path, "a.jpg", os.fsdecode(b"caf\xe9.jpg"))
    found = find_images([tmp_path])
    assert list(found.files) == ["a"]
    assert "1 name that is not in UTF-8, rename it" in found.unused.describe()
