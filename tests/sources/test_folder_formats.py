"""Label files as people have them: numbers, other bits, colours for classes, other pictures."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.errors import SourceError
from schemas.sample import IGNORE_ID, Sample, Task, UnreadableSample
from storage.samples.members import write_png
from tests.kit.folder_files import HEIGHT, WIDTH, open_folder, png, read_all, write_folder
from tests.kit.hostile.corpus_images import npy_header

FOLDERS = {"normals": "normal", "depth": "depth", "semseg": "class", "saliency": "salient"}
DEPTH_M = np.linspace(0.5, 8.0, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
VECTORS = np.zeros((HEIGHT, WIDTH, 3), np.float32) + np.float32([0.6, 0.0, 0.8])
BLACK, GREEN, GREY = (0, 0, 0), (0, 200, 0), (128, 128, 128)


class Folder:
    """A folder whose first sample's label the test writes."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path, self.root = tmp_path, tmp_path / "photographs"
        self.tree = write_folder(self.root)
        self.tree["size"] = [HEIGHT, WIDTH]

    def path(self, task: Task, suffix: str = ".png") -> Path:
        (self.root / "train.txt").write_text("0000\n")
        return self.root / FOLDERS[task] / f"0000{suffix}"

    def read(self, task: Task, suffix: str = ".png", **fields: Any) -> np.ndarray:
        found = self._first(task, suffix, fields)
        assert isinstance(found, Sample), found.detail
        return found.labels[task]

    def refusal(self, task: Task, suffix: str = ".png", **fields: Any) -> UnreadableSample:
        found = self._first(task, suffix, fields)
        assert isinstance(found, UnreadableSample)
        assert FOLDERS[task] in found.detail
        assert "BytesIO" not in found.detail
        return found

    def _first(self, task: Task, suffix: str, fields: dict[str, Any]) -> Sample | UnreadableSample:
        pattern = {"pattern": FOLDERS[task] + "/{key}" + suffix}
        base = {"num_classes": 5} if task == "semseg" else {}
        self.tree["labels"][task] = pattern | base | fields
        return read_all(open_folder(self.tree, self.tmp_path, tasks=(task,)))[0]


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def halves(left: Any, right: Any, kind: type = np.uint8) -> np.ndarray:
    """Left and right half; colours give three channels."""
    array = np.empty((HEIGHT, WIDTH, *np.shape(left)), kind)
    array[:, : WIDTH // 2], array[:, WIDTH // 2 :] = left, right
    return array


def write_exr(path: Path, **channels: np.ndarray) -> None:
    exr = pytest.importorskip("OpenEXR")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    exr.File(header, {name.replace("__", "."): array for name, array in channels.items()}).write(
        str(path)
    )


@pytest.mark.parametrize(
    ("stored", "unit"),
    [
        (DEPTH_M, "m"),
        (DEPTH_M.astype(np.float64), "m"),
        (DEPTH_M.astype(np.float16), "m"),
        (DEPTH_M[..., None], "m"),
        (DEPTH_M[None], "m"),
        (DEPTH_M * 1000, "mm"),
        ((DEPTH_M * 1000).round().astype(np.uint16), "mm"),
        ((DEPTH_M * 256).round().astype(np.int64), "1/256"),
    ],
)
def test_depth_comes_from_numpy_files(folder, stored, unit):
    np.save(folder.path("depth", ".npy"), stored)
    np.testing.assert_allclose(folder.read("depth", ".npy", unit=unit), DEPTH_M, atol=0.004)


def test_depth_comes_from_packed_numpy_files(folder):
    np.savez_compressed(folder.path("depth", ".npz"), DEPTH_M)
    np.testing.assert_allclose(folder.read("depth", ".npz", unit="m"), DEPTH_M)
    np.savez(folder.path("depth", ".npz"), depth=DEPTH_M, intrinsics=np.eye(3))
    np.testing.assert_allclose(folder.read("depth", ".npz", unit="m"), DEPTH_M)
    np.savez(folder.path("depth", ".npz"), near=DEPTH_M, far=DEPTH_M)
    bad = folder.refusal("depth", ".npz", unit="m")
    assert (bad.reason, "found near, far" in bad.detail) == ("label_format", True)


def test_what_is_not_positive_or_finite_is_unknown_depth(folder):
    stored = halves(np.nan, np.inf, np.float32)
    stored[0, :3] = -1, 0, 2.5
    np.save(folder.path("depth", ".npy"), stored)
    depth_m = folder.read("depth", ".npy", unit="m")
    assert depth_m[0, 2] == 2.5
    assert depth_m.sum() == 2.5


def test_numbers_with_a_point_need_a_unit(folder):
    np.save(folder.path("depth", ".npy"), DEPTH_M)
    assert "labels.depth.unit is not given; say unit: m" in folder.refusal("depth", ".npy").detail


@pytest.mark.parametrize("names", [("Z",), ("Y",), ("R", "G", "B"), ("ViewLayer__Depth__Z", "A")])
def test_depth_comes_from_openexr(folder, names):
    write_exr(folder.path("depth", ".exr"), **dict.fromkeys(names, DEPTH_M))
    np.testing.assert_allclose(folder.read("depth", ".exr", unit="m"), DEPTH_M)


def test_channels_of_openexr_that_say_nothing_are_named(folder):
    write_exr(folder.path("depth", ".exr"), R=DEPTH_M, G=DEPTH_M, B=DEPTH_M + 1)
    assert "found B, G, R" in folder.refusal("depth", ".exr", unit="m").detail


def test_damaged_openexr_is_a_row(folder):
    path = folder.path("depth", ".exr")
    write_exr(path, Z=DEPTH_M)
    whole = path.read_bytes()
    for damaged in (whole[:40], whole[:-60], whole[:-1] + b"x" * 9):
        path.write_bytes(damaged)
        found = folder._first("depth", ".exr", {"unit": "m"})
        assert isinstance(found, Sample) or found.reason == "decode_failed"


def test_without_the_extra_openexr_is_named_with_its_remedy(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    folder.path("depth", ".exr").write_bytes(b"\x76\x2f\x31\x01" + bytes(60))
    assert "pip install '.[exr]'" in folder.refusal("depth", ".exr", unit="m").detail


@pytest.mark.parametrize(
    ("unit", "metres"), [("1/256", 10.0), ("1/5000", 0.512), (1 / 256, 10.0), (0.001, 2.56)]
)
def test_a_unit_may_be_a_fraction_of_a_metre(folder, unit, metres):
    png(folder.path("depth"), np.full((HEIGHT, WIDTH), 2560, np.uint16))
    np.testing.assert_allclose(folder.read("depth", unit=unit), metres, rtol=1e-5)


@pytest.mark.parametrize("unit", ["1/0", "0/256", "km", "1/256 m", True, -1, [1, 256], ""])
def test_other_units_are_refused_in_plain_words(folder, unit):
    with pytest.raises(SourceError, match=r"labels\.depth\.unit.*: wanted mm, cm, m, .* 1/256"):
        folder.read("depth", unit=unit)


def test_8_bit_depth_is_refused_in_plain_words_and_read_in_a_given_range(folder):
    png(folder.path("depth"), halves(0, 255))
    bad = folder.refusal("depth", unit="mm")
    assert bad.reason == "label_format"
    assert "found 8-bit grey; depth wants 16 bit or .npy" in bad.detail
    assert "labels.depth.range" in bad.detail
    depth_m = folder.read("depth", range=[1, 11])
    np.testing.assert_allclose(depth_m[0, [0, -1]], [0, 11])
    png(folder.path("depth"), halves((51, 51, 51), (102, 102, 102)))
    assert "8-bit grey as a colour picture" in folder.refusal("depth", unit="mm").detail
    np.testing.assert_allclose(folder.read("depth", range=[1, 11])[0, [0, -1]], [3, 5], atol=1e-5)
    png(folder.path("depth"), halves(BLACK, GREEN))
    assert "found a colour picture" in folder.refusal("depth", unit="mm").detail
    assert "found a colour picture" in folder.refusal("depth", range=[0, 1]).detail


def test_a_range_has_two_ends_and_no_unit(folder):
    for fields in ({"range": [5, 1]}, {"range": [-1, 1]}, {"range": [0, 1], "unit": "m"}):
        with pytest.raises(SourceError, match=r"labels\.depth.*range"):
            folder.read("depth", **fields)


def test_depth_comes_from_tiff(folder):
    Image.fromarray(DEPTH_M).save(folder.path("depth", ".tif"))
    np.testing.assert_allclose(folder.read("depth", ".tif", unit="m"), DEPTH_M)
    Image.fromarray((DEPTH_M * 1000).astype(np.uint16)).save(folder.path("depth", ".tif"))
    np.testing.assert_allclose(folder.read("depth", ".tif"), DEPTH_M, atol=0.001)


@pytest.mark.parametrize(
    "stored",
    [
        VECTORS,
        VECTORS * 3,
        VECTORS.astype(np.float64),
        np.moveaxis(VECTORS, 2, 0),
        np.rint((VECTORS + 1) * 127.5).astype(np.uint8),
    ],
)
def test_normals_come_from_numpy_files(folder, stored):
    np.save(folder.path("normals", ".npy"), stored)
    np.testing.assert_allclose(folder.read("normals", ".npy"), VECTORS, atol=0.01)
    flipped = folder.read("normals", ".npy", x="left", z="away")
    np.testing.assert_allclose(flipped, VECTORS * [-1, 1, -1], atol=0.01)


@pytest.mark.parametrize("names", ["RGB", "XYZ"])
def test_normals_come_from_openexr(folder, names):
    channels = {f"Normal__{name}": VECTORS[..., i].copy() for i, name in enumerate(names)}
    write_exr(folder.path("normals", ".exr"), **channels)
    np.testing.assert_allclose(folder.read("normals", ".exr"), VECTORS, atol=1e-6)


def test_normals_without_opacity_are_invalid(folder):
    code = np.rint((VECTORS + 1) * 127.5).astype(np.uint8)
    png(folder.path("normals"), np.dstack([code, halves(0, 255)]))
    normals = folder.read("normals")
    assert not normals[:, : WIDTH // 2].any()
    np.testing.assert_allclose(normals[:, WIDTH // 2 :], VECTORS[:, WIDTH // 2 :], atol=0.01)


def test_normals_of_another_kind_are_refused_in_plain_words(folder):
    np.save(folder.path("normals", ".npy"), DEPTH_M)
    bad = folder.refusal("normals", ".npy")
    assert "found float32 numbers of shape (12, 16)" in bad.detail
    png(folder.path("normals"), halves(1, 2))
    assert "found 8-bit grey" in folder.refusal("normals").detail


@pytest.mark.parametrize(
    ("stored", "suffix", "fields"),
    [
        (halves(1, 3, np.uint16), ".png", {}),
        (halves(40001, 40003, np.uint16), ".png", {"id_map": {40001: 1, 40003: 3}}),
        (halves(0, 255), ".png", {"id_map": {0: 1, 255: 3}}),
        (halves(False, True, np.bool_), ".png", {"id_map": {0: 1, 1: 3}}),
        (halves(1, 3), ".tif", {}),
        (halves(1, 3), ".bmp", {}),
        (halves(1, 3, np.int64), ".npy", {}),
        (halves(1, 3, np.float32), ".npy", {}),
        (halves(-5, 10**12, np.int64), ".npy", {"id_map": {-5: 1, 10**12: 3}}),
        (halves(False, True, np.bool_), ".npy", {"id_map": {0: 1, 1: 3}}),
    ],
)
def test_class_ids_come_in_every_number_of_bits(folder, stored, suffix, fields):
    path = folder.path("semseg", suffix)
    np.save(path, stored) if suffix == ".npy" else png(path, stored)
    assert folder.read("semseg", suffix, **fields)[0, [0, -1]].tolist() == [1, 3]


def test_ids_that_are_not_whole_or_not_numbers_are_refused(folder):
    for value in (1.5, np.nan, np.inf):
        np.save(folder.path("semseg", ".npy"), halves(1, value, np.float32))
        assert folder.refusal("semseg", ".npy").reason == "class_id_out_of_range"


def test_a_map_that_names_255_is_no_longer_ignored_unless_both_are_said(folder):
    png(folder.path("semseg"), halves(0, 255))
    assert folder.read("semseg", id_map={0: 0, 255: 1})[0, -1] == 1
    assert folder.read("semseg", id_map={0: 0})[0, -1] == IGNORE_ID
    assert "wants id_map: {0: 0, 255: 1}" in folder.refusal("semseg", ignore=[]).detail
    with pytest.raises(SourceError, match="255 is in id_map and in ignore; give it once"):
        folder.read("semseg", id_map={0: 0, 255: 1}, ignore=[255])


@pytest.mark.parametrize(
    "colors",
    [
        [BLACK, GREEN],
        ["#000000", "#00C800"],
        {"#000000": 0, "00c800": 1},
        {"0, 0, 0": 0, "(0, 200, 0)": 1},
        {0: [0, 0, 0], 1: [0, 200, 0]},
        {0: "#000000", 1: ["#00c800", "#00ff00"]},
        {0: [[0, 0, 0], [9, 9, 9]], 1: [0, 200, 0]},
    ],
)
def test_colours_become_the_ids_of_a_table(folder, colors):
    png(folder.path("semseg"), halves(BLACK, GREEN))
    table = [list(one) if isinstance(one, tuple) else one for one in colors]
    label = folder.read("semseg", colors=table if isinstance(colors, list) else colors)
    assert label[0, [0, -1]].tolist() == [0, 1]


def test_stored_ids_of_colours_are_ignored_and_mapped_like_others(folder):
    png(folder.path("semseg"), halves(BLACK, GREEN))
    colors = {"#000000": 255, "#00c800": 7}
    label = folder.read("semseg", colors=colors, id_map={7: 2})
    assert label[0, [0, -1]].tolist() == [IGNORE_ID, 2]


def test_an_unknown_colour_is_named_and_never_taken_for_the_nearest(folder):
    picture = halves(BLACK, GREEN)
    picture[3, 5] = picture[4, 5] = 0, 199, 0
    png(folder.path("semseg"), picture)
    bad = folder.refusal("semseg", colors=["#000000", "#00c800"])
    assert bad.reason == "class_id_out_of_range"
    assert "colour #00c700 = [0, 199, 0] is not in colors (2 pixels, the first at x 5, y 3" in (
        bad.detail
    )


def test_colours_without_a_table_are_listed(folder):
    png(folder.path("semseg"), halves(BLACK, GREEN))
    bad = folder.refusal("semseg")
    assert bad.reason == "label_format"
    assert "found a colour picture with 2 colours (#000000, #00c800)" in bad.detail
    assert "labels.semseg.colors" in bad.detail


def test_a_palette_gives_its_indices_and_with_a_table_its_colours(folder):
    picture = Image.fromarray(halves(2, 0))
    picture.putpalette([*GREEN, *GREY, *BLACK])
    picture.save(folder.path("semseg"))
    assert folder.read("semseg")[0, [0, -1]].tolist() == [2, 0]
    assert folder.read("semseg", colors=["#000000", "#00c800"])[0, [0, -1]].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("colors", "words"),
    [
        (["#000000", "#000000"], "#000000 comes twice, as 0 and 1"),
        (["black"], "'black': wanted \"#rrggbb\" in quotes"),
        ([[0, 0, 256]], 'wanted "#rrggbb" in quotes'),
        ([0], 'wanted "#rrggbb" in quotes'),
        ({"#000000": "sky"}, "wanted its id, found 'sky'"),
        ({"#000000": 9}, "#000000 is id 9, which becomes no class of 0..4"),
        ("#000000", "wanted a list of colours or a mapping"),
        (None, '"#rrggbb" in quotes'),
    ],
)
def test_a_table_of_colours_that_is_none_is_refused_by_name(folder, colors, words):
    with pytest.raises(SourceError, match=r"labels\.semseg") as caught:
        folder.read("semseg", colors=colors)
    assert words in str(caught.value)


def test_a_label_that_is_saved_with_loss_is_refused(folder):
    Image.fromarray(halves(0, 1)).save(folder.path("semseg", ".jpg"))
    detail = folder.refusal("semseg", ".jpg").detail
    assert "wanted PNG, TIFF, BMP, .npy, .npz or OpenEXR, found a JPEG" in detail


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"MATLAB 5.0 MAT-file, Platform: PCWIN", "a MATLAB file (.mat); save its array as .npy"),
        (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
        (b"0,0,1\n0,1,1\n", "text ('0,0,1 0,1,1')"),
        (write_png(halves(0, 1))[:50], "a damaged PNG, which ends too early; copy it again"),
    ],
    ids=["matlab", "empty archive", "table", "cut off"],
)
def test_a_label_file_that_is_none_is_named_beside_what_is_read(folder, content, words):
    folder.path("semseg", ".png").write_bytes(content)
    detail = folder.refusal("semseg", ".png").detail
    assert f"wanted PNG, TIFF, BMP, .npy, .npz or OpenEXR, found {words}" in detail


def test_a_mask_may_be_stored_as_colours_or_in_one_bit(folder):
    png(folder.path("saliency"), halves((0, 0, 0), (255, 255, 255)))
    assert folder.read("saliency")[0, [0, -1]].tolist() == [0, 1]
    png(folder.path("saliency"), halves(False, True, np.bool_))
    assert folder.read("saliency")[0, [0, -1]].tolist() == [0, 1]
    png(folder.path("saliency"), halves(BLACK, GREEN))
    assert "wanted grey, found a colour picture" in folder.refusal("saliency").detail


def test_a_packed_file_is_no_larger_than_its_header_says(folder):
    path = folder.path("depth", ".npz")
    np.savez(path, DEPTH_M)
    with zipfile.ZipFile(path) as archive:
        content = archive.read("arr_0.npy")
    huge = npy_header("{'descr': '|V1000000000', 'fortran_order': False, 'shape': (12, 16)}")
    for inner, reason in (
        (huge, "too_large"),
        (content + bytes(64 << 20), "decode_failed"),
        (b"no array", "decode_failed"),
    ):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("arr_0.npy", inner)
        assert folder.refusal("depth", ".npz", unit="m").reason == reason
    path.write_bytes(b"PK\x03\x04" + bytes(99))
    assert folder.refusal("depth", ".npz", unit="m").reason == "decode_failed"


def test_labels_that_lack_the_turn_of_their_image_are_explained(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    picture.save(folder.root / "rgb/0000.png", exif=exif)
    folder.path("depth")
    with pytest.raises(SourceError, match=r"wanted equal sizes.*EXIF orientation"):
        folder.read("depth")
