"""PASCAL-Context with its five tasks, in small files of the published format."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import scipy.io
import scipy.ndimage
from PIL import Image

from evaluation.thinning import thin
from schemas.errors import SampleError, SourceError
from sources.layouts.classes import VOC_21
from sources.layouts.pascal_context import CONTEXT_IDS_WITH_NORMALS, boundaries_of
from sources.layouts.protocol import LayoutOptions
from sources.layouts.registry import find_layout, recognise
from sources.prepare.prepare import PrepareRequest, open_files, prepare
from sources.readers.pascal_parts import PART_IDS, paint_parts
from tests.kit.layouts import pascal_files
from tests.kit.layouts.layout_checks import read_layout
from tests.kit.layouts.pascal_files import NAMES, TRAIN, VAL, H, W, make_object, patch, write_anno

FIRST = TRAIN[0]
WITH_NORMALS = (72, 158, 427, 440)
"""Of the ids in the files: chair, floor, tvmonitor, wall; not sky, tree, unknown, wool."""

PARTS = {
    1: "head hair lear rear leye reye lebrow rebrow nose mouth",
    2: "neck torso",
    3: "luarm ruarm",
    4: "llarm rlarm lhand rhand",
    5: "luleg ruleg",
    6: "llleg rlleg lfoot rfoot",
}


def open_at(root, **options):
    return find_layout("pascal_context").open(root, LayoutOptions(**options))


def independent_boundaries(label_map):
    """With SciPy's Laplacian and the project's other thinning."""
    return thin(scipy.ndimage.laplace(label_map.astype(np.int64), mode="mirror") != 0)


def expected_parts(name):
    """The torso of 4 x 4, the head over it, one pixel of an arm; nothing where no person is."""
    ids = np.zeros((H, W), np.uint8)
    ids[2:6, 3:7], ids[1:3, 4:6], ids[4, 1] = 2, 1, 3
    return np.full((H, W), 255, np.uint8) if name in VAL else ids


def expected_normals(pair):
    raw = pair.codes.astype(np.float64) * 2 / 255 - 1
    unit = raw / np.linalg.norm(raw, axis=-1, keepdims=True)
    return np.where(np.isin(pair.label_map, WITH_NORMALS)[..., None], unit, 0)


@pytest.fixture
def pascal(tmp_path):
    return pascal_files.write_pascal(tmp_path)


class TestValues:
    """What becomes of each file."""

    def test_every_label_value_is_what_the_published_rules_make_of_the_files(
        self, tmp_path, pascal
    ):
        samples = read_layout("pascal_context", tmp_path)
        assert tuple(samples) == NAMES
        for number, (name, sample) in enumerate(samples.items()):
            pair, labels = pascal[name], sample.labels
            assert (sample.image == 50 * (number + 1)).all()
            np.testing.assert_array_equal(labels["semseg"], pair.semseg)
            np.testing.assert_array_equal(labels["human_parts"], expected_parts(name))
            np.testing.assert_array_equal(labels["saliency"], pair.saliency >= 128)
            np.testing.assert_array_equal(
                labels["boundaries"], independent_boundaries(pair.label_map)
            )
            np.testing.assert_allclose(labels["normals"], expected_normals(pair), atol=1e-6)

    def test_shards_hold_the_same_values_when_read_with_tarfile(self, tmp_path):
        pairs = pascal_files.write_pascal(tmp_path / "in")
        request = PrepareRequest(
            layout="pascal_context", root=tmp_path / "in", out=str(tmp_path / "out")
        )
        prepared = prepare(request, open_files(request))
        assert prepared.failures == ()
        for split, names in (("train", TRAIN), ("test", VAL)):
            with tarfile.open(tmp_path / "out" / f"{split}-000000.tar") as tar:
                members = {member.name: tar.extractfile(member).read() for member in tar}
            for name in names:
                pair = pairs[name]
                found = {
                    task: np.asarray(Image.open(io.BytesIO(members[f"{name}.{task}.png"])))
                    for task in ("semseg", "human_parts", "saliency", "boundaries", "normals")
                }
                np.testing.assert_array_equal(found["semseg"], pair.semseg)
                np.testing.assert_array_equal(found["human_parts"], expected_parts(name))
                np.testing.assert_array_equal(found["saliency"], 254 * (pair.saliency >= 128))
                boundaries = independent_boundaries(pair.label_map)
                np.testing.assert_array_equal(found["boundaries"], 254 * boundaries)
                is_valid = np.isin(pair.label_map, WITH_NORMALS)
                off = found["normals"].astype(int) - pair.codes.astype(int)
                assert np.abs(off[is_valid]).max() <= 1
                assert not found["normals"][~is_valid].any()

    def test_the_list_val_is_the_test_split(self, tmp_path, pascal):
        files = open_at(tmp_path)
        assert files.splits() == {"train": TRAIN, "test": VAL}
        assert files.class_names == VOC_21
        assert files.num_classes == 21
        assert files.notes == ()
        counts = find_layout("pascal_context").official_counts
        assert dict(counts) == {"train": 4998, "test": 5105}

    @pytest.mark.parametrize("name", ["PASCAL_MT", "PASCALContext"])
    def test_the_folder_above_will_do(self, tmp_path, name):
        pascal_files.write_pascal(tmp_path / name)
        assert recognise(tmp_path) == ("pascal_context",)
        sample = open_at(tmp_path, tasks=("saliency",)).read(FIRST)
        assert sample.meta == {"file": f"{name}/JPEGImages/{FIRST}.jpg"}

    def test_signs_turn_the_axes_of_normals(self, tmp_path, pascal):
        files = open_at(tmp_path, normals_signs=(-1.0, 1.0, -1.0), tasks=("normals",))
        turned = files.read(FIRST).labels["normals"]
        np.testing.assert_allclose(turned, expected_normals(pascal[FIRST]) * [-1, 1, -1], atol=1e-6)

    def test_normals_are_kept_on_the_classes_that_nyuv2_has_too(self):
        assert len(CONTEXT_IDS_WITH_NORMALS) == len(set(CONTEXT_IDS_WITH_NORMALS))
        assert set(CONTEXT_IDS_WITH_NORMALS) <= set(range(1, 460)) - {431}
        assert list(CONTEXT_IDS_WITH_NORMALS) == sorted(CONTEXT_IDS_WITH_NORMALS)


class TestBoundaries:
    """The Laplacian of the ids, thinned."""

    def test_two_halves_meet_in_one_line_of_one_pixel(self):
        halves = np.repeat([[3, 4]], 12, axis=0).repeat(8, axis=1)
        edges = boundaries_of(halves)
        assert edges.dtype == np.float32
        assert edges[3:-3].sum(axis=1).tolist() == [1] * 6
        assert not edges[:, :7].any()
        assert not edges[:, 9:].any()

    def test_one_region_has_none(self):
        assert not boundaries_of(np.full((6, 7), 459, np.uint16)).any()

    def test_it_equals_an_independent_implementation_on_random_regions(self):
        rng = np.random.default_rng(0)
        for _ in range(20):
            blocks = rng.integers(0, 460, size=(8, 9)).astype(np.uint16)
            label_map = blocks.repeat(rng.integers(1, 6, 8), axis=0)
            label_map = label_map.repeat(rng.integers(1, 6, 9), axis=1)
            np.testing.assert_array_equal(
                boundaries_of(label_map), independent_boundaries(label_map)
            )


class TestParts:
    """Nested structs to class ids."""

    def paint(self, tmp_path, objects):
        path = tmp_path / "a.mat"
        write_anno(path, objects)
        return paint_parts(scipy.io.loadmat(path)["anno"], path)

    def test_each_of_the_24_names_has_its_part(self, tmp_path):
        names = [(name, part) for part, text in PARTS.items() for name in text.split()]
        assert len(names) == 24
        assert dict(names) == PART_IDS
        places = [divmod(number, W) for number in range(len(names))]
        objects = [
            make_object(15, ((name, patch(*place)),))
            for (name, _), place in zip(names, places, strict=True)
        ]
        ids = self.paint(tmp_path, objects)
        for (name, part), place in zip(names, places, strict=True):
            assert ids[place] == part, name
        assert (ids > 0).sum() == 24

    def test_other_animals_have_heads_that_do_not_count(self, tmp_path):
        dog = make_object(12, (("head", patch(0, 0)), ("muzzle", patch(5, 5))))
        person = make_object(15, (("torso", patch(1, 1)),))
        ids = self.paint(tmp_path, [dog, person, make_object(15, ())])
        assert np.argwhere(ids).tolist() == [[1, 1]]

    @pytest.mark.parametrize("objects", [[], [make_object(12, ())], [make_object(15, ())]])
    def test_without_any_part_of_a_person_there_is_no_label(self, tmp_path, objects):
        assert self.paint(tmp_path, objects) is None

    @pytest.mark.parametrize("squeeze", [True, False])
    def test_structs_are_read_squeezed_or_not(self, tmp_path, squeeze):
        path = tmp_path / "a.mat"
        for count in (1, 2):
            parts = (("torso", patch(0, 0, 3, 3)), ("head", patch(0, 0)))[:count]
            write_anno(path, [make_object(15, parts)] * count)
            anno = scipy.io.loadmat(path, squeeze_me=squeeze)["anno"]
            ids = paint_parts(anno, path)
            assert (ids == 2).sum() == 10 - count
            assert (ids == 1).sum() == count - 1

    @pytest.mark.parametrize(
        ("objects", "complaint"),
        [
            ([make_object(15, (("wing", patch(0, 0)),))], "wanted a part of a person.*'wing'"),
            ([make_object(15, (("head", patch(0, 0)),)) | {"class_ind": "person"}], "class_ind"),
            (
                [
                    make_object(15, (("head", patch(0, 0)),)),
                    make_object(15, (("head", patch(0, 0)[:5]),)) | {"mask": 0},
                ],
                "masks of one size",
            ),
        ],
    )
    def test_an_annotation_of_another_kind_names_the_file(self, tmp_path, objects, complaint):
        with pytest.raises(SampleError, match=rf"annotation_invalid: .*a\.mat: .*{complaint}"):
            self.paint(tmp_path, objects)

    def test_a_struct_without_objects_says_what_it_has(self, tmp_path):
        path = tmp_path / "a.mat"
        scipy.io.savemat(path, {"anno": {"imname": "a", "things": 1}})
        with pytest.raises(SampleError, match=r"wanted a struct with objects, found.*things"):
            paint_parts(scipy.io.loadmat(path)["anno"], path)


class TestFailures:
    """Messages name the file and what to do."""

    def test_a_missing_list_is_an_error(self, tmp_path, pascal):
        (tmp_path / "ImageSets" / "Context" / "val.txt").unlink()
        with pytest.raises(SourceError, match=r"Context/val\.txt: the list .*missing; unpack the"):
            open_at(tmp_path)

    def test_another_data_set_is_refused(self, tmp_path):
        (tmp_path / "images").mkdir()
        with pytest.raises(SourceError, match=r"JPEGImages: not there.*; unpack the whole archive"):
            open_at(tmp_path)

    def test_an_image_in_both_lists_is_an_error(self, tmp_path, pascal):
        (tmp_path / "ImageSets/Context/val.txt").write_text(f"{FIRST}\n")
        with pytest.raises(SourceError, match=rf"{FIRST}\.jpg .*same key.*correct the lists"):
            open_at(tmp_path)

    @pytest.mark.parametrize(
        ("folder", "lost"),
        [
            ("normals_distill", {"normals"}),
            ("human_parts", {"human_parts"}),
            ("sal_distill", {"saliency"}),
            ("semseg", {"semseg"}),
            ("pascal-context", {"normals", "boundaries"}),
        ],
    )
    def test_a_missing_folder_leaves_its_tasks_out_and_says_so(
        self, tmp_path, pascal, folder, lost
    ):
        (tmp_path / folder).rename(tmp_path / "gone")
        files = open_at(tmp_path)
        everything = {"normals", "semseg", "human_parts", "saliency", "boundaries"}
        assert set(files.tasks) == everything - lost
        for task in lost:
            assert any(folder in note and f"go on without {task}" in note for note in files.notes)
            with pytest.raises(SourceError, match=f"no labels of {task} there"):
                open_at(tmp_path, tasks=(task,))

    def test_without_scikit_image_only_the_boundaries_cannot_be_had(
        self, tmp_path, pascal, monkeypatch
    ):
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(SourceError, match=r"pip install '\.\[datasets\]', or leave boundaries"):
            open_at(tmp_path)
        assert open_at(tmp_path, tasks=("semseg",)).tasks == ("semseg",)

    @pytest.mark.parametrize(
        ("file", "content", "reason", "complaint"),
        [
            ("semseg/VOC12/{}.png", np.full((H, W), 21, np.uint8),
             "class_id_out_of_range", "ids 0 to 20 or 255 .*found 21; unpack"),
            ("semseg/VOC12/{}.png", np.zeros((H, W + 1), np.uint8),
             "label_size_differs", "9 x 14, its semseg 9 x 15"),
            ("semseg/VOC12/{}.png", None, "file_missing", "found none; unpack"),
            ("sal_distill/{}.png", np.zeros((H, W, 3), np.uint8),
             "label_format", "found a colour picture; unpack"),
            ("normals_distill/{}.png", np.zeros((H, W), np.uint8),
             "label_format", "found 8-bit grey; unpack"),
            ("normals_distill/{}.png", np.ones((H, W - 1, 3), np.uint8),
             "label_size_differs", r"\(9, 13\), but its LabelMap is \(9, 14\); unpack"),
            ("human_parts/{}.mat", b"no such thing", "decode_failed", "wanted a MATLAB .*; unpack"),
            ("human_parts/{}.mat", None, "file_missing", "found none; unpack"),
            ("human_parts/{}.mat", {"annotation": 1}, "decode_failed", "variable anno.*; unpack"),
            ("pascal-context/trainval/{}.mat", {"LabelMap": "text"}, "decode_failed",
             "LabelMap .* of numbers.*; unpack"),
            ("pascal-context/trainval/{}.mat", None, "file_missing", "found none; unpack"),
            ("JPEGImages/{}.jpg", b"torn", "decode_failed", "unpack"),
        ],
    )  # fmt: skip
    def test_a_sample_that_cannot_be_read_names_its_file(
        self, tmp_path, pascal, file, content, reason, complaint
    ):
        path = tmp_path / file.format(FIRST)
        path.unlink()
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict):
            scipy.io.savemat(path, content)
        elif content is not None:
            pascal_files.save_png(path, content)
        with pytest.raises(SampleError, match=rf"{FIRST}.*{complaint}") as caught:
            open_at(tmp_path).read(FIRST)
        assert caught.value.reason == reason
        assert str(tmp_path) in caught.value.detail
        assert open_at(tmp_path).read(TRAIN[1]).labels

    @pytest.mark.parametrize("keep", [0, 100, 130, 160, 200])
    @pytest.mark.parametrize("folder", ["human_parts", "pascal-context/trainval"])
    def test_a_torn_mat_file_is_a_failed_sample(self, tmp_path, pascal, folder, keep):
        path = tmp_path / folder / f"{FIRST}.mat"
        path.write_bytes(path.read_bytes()[:keep])
        files = open_at(tmp_path, tasks=("human_parts", "boundaries"))
        with pytest.raises(SampleError, match=rf"{FIRST}\.mat: "):
            files.read(FIRST)

    def test_whatever_byte_is_damaged_nothing_but_a_failed_sample_comes_of_it(
        self, tmp_path, pascal
    ):
        path = tmp_path / "human_parts" / f"{FIRST}.mat"
        variables = scipy.io.loadmat(path)
        scipy.io.savemat(path, {"anno": variables["anno"]}, do_compression=False)
        whole = path.read_bytes()
        files = open_at(tmp_path, tasks=("human_parts",))
        outcomes = set()
        for place in range(128, 400, 3):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xF1]) + whole[place + 1 :])
            try:
                outcomes.add(bool(files.read(FIRST).labels))
            except SampleError as error:
                outcomes.add(error.reason)
        assert {True, "decode_failed"} <= outcomes <= {True, "decode_failed", "annotation_invalid"}

    def test_a_name_that_leads_out_of_the_folder_is_not_followed(self, tmp_path):
        pascal_files.write_pascal(tmp_path / "in")
        secret = tmp_path / "secret.jpg"
        secret.write_bytes((tmp_path / f"in/JPEGImages/{FIRST}.jpg").read_bytes())
        (tmp_path / "in/ImageSets/Context/train.txt").write_text("../../secret\n")
        files = open_at(tmp_path / "in")
        with pytest.raises(SampleError, match=r"outside_root: .*secret\.jpg"):
            files.read(files.splits()["train"][0])
