"""Conversion of a data set to shards, read back with independent readers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import duckdb
import numpy as np
import pytest
import webdataset
from PIL import Image

from schemas.config import ShardsSource
from schemas.errors import ConfigError, SampleError, SourceError
from schemas.sample import INVALID_VALUES, TASK_KINDS, Sample, UnreadableSample
from sources.layouts.protocol import LayoutOptions
from sources.open import open_source
from sources.prepare.convert import plan_shards
from sources.prepare.prepare import PrepareRequest, open_files, prepare, resolve_layout
from sources.resize import PAD_RGB, fit_sample
from storage.files.stores import open_store
from tests.kit.layouts import nyu_files


def convert(root, out, layout="nyud_mt_atrc", **options):
    request = PrepareRequest(layout=layout, root=root, out=str(out), **options)
    return prepare(request, open_files(request))


def query(out, text):
    return duckdb.sql(text.format(m=f"read_parquet('{out}/manifest.parquet')")).fetchall()


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def atrc(tmp_path):
    return nyu_files.write_atrc(tmp_path / "in", train=5, test=2)


class TestShards:
    """What lies in the folder."""

    def test_tarfile_and_pil_read_back_every_value(self, tmp_path, atrc):
        convert(tmp_path / "in", tmp_path / "out", per_shard=3)
        names = ["test-000000.tar", "train-000000.tar", "train-000001.tar"]
        assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == names
        seen = []
        for name in names:
            with tarfile.open(tmp_path / "out" / name) as tar:
                members = {m.name: tar.extractfile(m).read() for m in tar}
            keys = [name.removesuffix(".json") for name in members if name.endswith(".json")]
            seen += keys
            for key in keys:
                pair = atrc[key]
                picture = {
                    member: np.asarray(Image.open(io.BytesIO(members[f"{key}.{member}.png"])))
                    for member in ("image", "normals", "depth", "semseg", "boundaries")
                }
                np.testing.assert_array_equal(picture["image"], pair.image)
                ids = np.where(pair.ids == 0, 255, pair.ids.astype(int) - 1)
                np.testing.assert_array_equal(picture["semseg"], ids)
                np.testing.assert_array_equal(picture["depth"], np.rint(pair.depth_m * 1000))
                np.testing.assert_array_equal(picture["boundaries"], (pair.edge > 0) * 254)
                off = np.abs(picture["normals"].astype(int) - pair.codes.astype(int))
                assert off.max() <= 1
                assert not picture["normals"][:2, :3].any()
        assert sorted(seen) == sorted(atrc)

    def test_webdataset_reads_a_shard(self, tmp_path, atrc):
        convert(tmp_path / "in", tmp_path / "out")
        url = str(tmp_path / "out" / "train-000000.tar")
        samples = list(webdataset.WebDataset(url, shardshuffle=False).decode("rgb8"))
        assert [sample["__key__"] for sample in samples] == [f"{i:04d}" for i in range(5)]
        np.testing.assert_array_equal(samples[0]["image.png"], atrc["0000"].image)
        assert samples[0]["json"]["file"] == "images/0000.png"

    def test_the_manifest_has_a_row_per_sample_with_the_digest_of_its_tar(self, tmp_path, atrc):
        convert(tmp_path / "in", tmp_path / "out", per_shard=3)
        rows = query(
            tmp_path / "out",
            "select split, shard, count(*), min(tar_sha256), count(distinct tar_sha256), "
            "min(height), max(width) from {m} group by all order by split, shard",
        )
        assert [row[:3] for row in rows] == [
            ("test", "test-000000.tar", 2),
            ("train", "train-000000.tar", 3),
            ("train", "train-000001.tar", 2),
        ]
        for _, shard, _, digest, distinct, height, width in rows:
            data = (tmp_path / "out" / shard).read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest
            assert (distinct, height, width) == (1, nyu_files.H, nyu_files.W)

    def test_the_facts_say_what_was_made(self, tmp_path, atrc):
        convert(tmp_path / "in", tmp_path / "out", size=(6, 8))
        facts = json.loads((tmp_path / "out" / "prepared.json").read_text())
        assert facts["layout"] == "nyud_mt_atrc"
        assert facts["tasks"] == ["normals", "depth", "semseg", "boundaries"]
        assert (facts["num_classes"], len(facts["class_names"])) == (40, 40)
        assert facts["size"] == [6, 8]
        assert facts["counts"]["train"] == {"images": 5, "failed": 0}
        data = (tmp_path / "out" / "manifest.parquet").read_bytes()
        assert facts["manifest_sha256"] == hashlib.sha256(data).hexdigest()

    def test_the_same_data_give_the_same_bytes_in_any_number_of_runs(self, tmp_path, atrc):
        for name in ("one", "two"):
            convert(tmp_path / "in", tmp_path / name, per_shard=2)
        assert files_of(tmp_path / "one") == files_of(tmp_path / "two")

    def test_any_store_will_do(self, tmp_path, atrc):
        convert(tmp_path / "in", "memory://prepared-atrc", limit=2)
        source = open_source(ShardsSource(root="memory://prepared-atrc"), ("depth",))
        assert len(source.shards("test")[0].keys) == 2

    def test_a_limit_takes_the_first_of_each_split(self, tmp_path, atrc):
        convert(tmp_path / "in", tmp_path / "out", limit=1)
        assert query(tmp_path / "out", "select split, key from {m} order by 1") == [
            ("test", "0005"),
            ("train", "0000"),
        ]

    def test_shards_divide_the_keys_in_order(self):
        keys = tuple(str(number) for number in range(5))
        plans = plan_shards({"train": keys, "test": keys[:1]}, limit=None, per_shard=2)
        assert [plan.name for plan in plans] == [
            "train-000000",
            "train-000001",
            "train-000002",
            "test-000000",
        ]
        assert [plan.keys for plan in plans] == [("0", "1"), ("2", "3"), ("4",), ("0",)]
        limited = plan_shards({"train": keys}, limit=3, per_shard=2)
        assert [plan.keys for plan in limited] == [("0", "1"), ("2",)]


class TestResume:
    """A conversion that is started again."""

    def test_a_finished_shard_is_not_made_again(self, tmp_path, atrc):
        convert(tmp_path / "in", tmp_path / "out", per_shard=3)
        before = files_of(tmp_path / "out")
        for path in (tmp_path / "in" / "images").glob("*.png"):
            path.unlink()
        told = []
        request = PrepareRequest(
            layout="nyud_mt_atrc", root=tmp_path / "in", out=str(tmp_path / "out"), per_shard=3
        )
        prepare(request, open_files(request), tell=told.append)
        assert told == ["0 of 3 shards to make"]
        assert files_of(tmp_path / "out") == before

    def test_what_is_missing_is_made_with_the_same_bytes(self, tmp_path, atrc):
        convert(tmp_path / "in", tmp_path / "out", per_shard=3)
        before = files_of(tmp_path / "out")
        # A stop between tar and rows, one before the tar, and a torn end.
        (tmp_path / "out" / "parts" / "train-000000.parquet").unlink()
        (tmp_path / "out" / "parts" / "train-000001.parquet").unlink()
        (tmp_path / "out" / "train-000001.tar").unlink()
        (tmp_path / "out" / "prepared.json").unlink()
        convert(tmp_path / "in", tmp_path / "out", per_shard=3)
        assert files_of(tmp_path / "out") == before

    def test_a_shard_with_failed_samples_is_made_again_once_they_are_mended(self, tmp_path, atrc):
        label = tmp_path / "in" / "normals" / "0001.png"
        whole = label.read_bytes()
        label.write_bytes(whole[: len(whole) // 2])
        assert convert(tmp_path / "in", tmp_path / "out").tallies["train"].num_failed == 1
        label.write_bytes(whole)
        assert convert(tmp_path / "in", tmp_path / "out").failures == ()
        convert(tmp_path / "in", tmp_path / "afresh")
        assert files_of(tmp_path / "out") == files_of(tmp_path / "afresh")

    @pytest.mark.parametrize(
        ("changed", "name"),
        [
            ({"size": (6, 8)}, "size"),
            ({"limit": 2}, "keys_sha256"),
            ({"per_shard": 2}, "per_shard"),
        ],
    )
    def test_a_folder_of_another_preparation_is_left_alone(self, tmp_path, atrc, changed, name):
        convert(tmp_path / "in", tmp_path / "out")
        with pytest.raises(SourceError, match=rf"another preparation: {name} was .*another --out"):
            convert(tmp_path / "in", tmp_path / "out", **changed)

    def test_another_class_map_is_another_preparation(self, tmp_path):
        nyu_files.write_mat(tmp_path / "in")
        (tmp_path / "one.txt").write_text("1\n2\n" * 445)
        (tmp_path / "other.txt").write_text("2\n1\n" * 445)
        one, other = (LayoutOptions(class_map=tmp_path / f"{n}.txt") for n in ("one", "other"))
        convert(tmp_path / "in", tmp_path / "out", "nyu_depth_v2", options=one)
        with pytest.raises(SourceError, match="class_map_sha256 was"):
            convert(tmp_path / "in", tmp_path / "out", "nyu_depth_v2", options=other)


class TestFailures:
    """Samples and folders that cannot be read."""

    def test_a_failed_sample_is_a_row_with_a_reason_and_the_others_go_on(self, tmp_path, atrc):
        (tmp_path / "in" / "images" / "0002.png").write_bytes(b"torn")
        ids = np.full((nyu_files.H, nyu_files.W), 99, np.uint8)
        nyu_files.save_png(tmp_path / "in" / "segmentation" / "0003.png", ids)
        prepared = convert(tmp_path / "in", tmp_path / "out")
        rows = query(
            tmp_path / "out", "select key, reason, detail, shard from {m} where status='failed'"
        )
        assert [row[:2] for row in rows] == [
            ("0002", "decode_failed"),
            ("0003", "class_id_out_of_range"),
        ]
        assert "images/0002.png" in rows[0][2]
        assert "found 99" in rows[1][2]
        assert rows[0][3] is None
        assert [key for key, _ in prepared.failures] == ["0002", "0003"]
        source = open_source(
            ShardsSource(root=str(tmp_path / "out"), validation_fraction=0), ("depth",)
        )
        assert source.shards("train")[0].keys == ("0000", "0001", "0004")

    def test_a_folder_where_nothing_can_be_read_is_an_error(self, tmp_path, atrc):
        for path in (tmp_path / "in" / "images").glob("*.png"):
            path.write_bytes(b"torn")
        with pytest.raises(SourceError, match=r"none of 7 samples could be read.*images/0000\.png"):
            convert(tmp_path / "in", tmp_path / "out")

    def test_a_folder_of_another_layout_is_named(self, tmp_path, atrc):
        with pytest.raises(SourceError, match=r"files of nyu_bts, found .* nyud_mt_atrc"):
            resolve_layout("nyu_bts", tmp_path / "in")
        assert resolve_layout("auto", tmp_path / "in") == "nyud_mt_atrc"

    def test_a_folder_of_no_known_layout_is_an_error(self, tmp_path):
        with pytest.raises(SourceError, match="no known layout"):
            resolve_layout("auto", tmp_path)
        with pytest.raises(SourceError, match="no such folder"):
            resolve_layout("auto", tmp_path / "nowhere")
        with pytest.raises(SourceError, match=r"unknown; wanted one of .*nyu_bae"):
            resolve_layout("nyu", tmp_path)

    def test_an_image_in_two_splits_is_found(self, tmp_path, atrc):
        images = tmp_path / "in" / "images"
        (images / "0006.png").write_bytes((images / "0001.png").read_bytes())
        prepared = convert(tmp_path / "in", tmp_path / "out")
        assert prepared.duplicates == (("train/0001", "test/0006"),)


class TestFit:
    """One size for all samples."""

    def sample(self, height, width):
        pair = nyu_files.make_pair(3, height=height, width=width)
        labels = {
            "normals": pair.vectors,
            "depth": pair.depth_m,
            "semseg": pair.ids,
            "saliency": (pair.edge / 255).astype(np.float32),
        }
        return Sample(key="a", image=pair.image, labels=labels)

    def test_padding_keeps_all_pixels_and_adds_unlabelled_ones(self):
        sample = self.sample(5, 7)
        padded = fit_sample(sample, (8, 9), "pad")
        inside = np.zeros((8, 9), bool)
        inside[1:6, 1:8] = True
        np.testing.assert_array_equal(padded.image[1:6, 1:8], sample.image)
        assert (padded.image[~inside] == PAD_RGB).all()
        for task, label in padded.labels.items():
            np.testing.assert_array_equal(label[1:6, 1:8], sample.labels[task])
            assert (label[~inside] == INVALID_VALUES[TASK_KINDS[task]]).all()
            assert label.dtype == sample.labels[task].dtype

    def test_padding_refuses_what_is_larger(self):
        with pytest.raises(SampleError, match=r"larger_than_size: 5 x 7 .* 5 x 6"):
            fit_sample(self.sample(5, 7), (5, 6), "pad")

    def test_cropping_cuts_the_middle_and_stretching_does_not(self):
        sample = self.sample(4, 8)
        cropped = fit_sample(sample, (4, 4), "crop")
        np.testing.assert_array_equal(cropped.labels["depth"], sample.labels["depth"][:, 2:6])
        np.testing.assert_array_equal(cropped.image, sample.image[:, 2:6])
        stretched = fit_sample(sample, (4, 4), "stretch")
        assert stretched.image.shape == (4, 4, 3)
        np.testing.assert_array_equal(stretched.labels["semseg"], sample.labels["semseg"][:, 1::2])

    def test_without_a_size_nothing_changes(self):
        sample = self.sample(4, 8)
        assert fit_sample(sample, None, "crop") is sample

    def test_mixed_sizes_are_kept_natively_but_not_read_as_a_source(self, tmp_path):
        nyu_files.write_atrc(tmp_path / "in", train=2, test=1)
        pair = nyu_files.make_pair(9, height=10, width=20)
        nyu_files.save_png(tmp_path / "in" / "images" / "0001.png", pair.image)
        nyu_files.save_npy(tmp_path / "in" / "depth" / "0001.npy", pair.depth_m)
        options = LayoutOptions(tasks=("depth",))
        convert(tmp_path / "in", tmp_path / "native", options=options)
        with pytest.raises(SourceError, match=r"images of 2 sizes.*--size HEIGHTxWIDTH"):
            open_source(ShardsSource(root=str(tmp_path / "native")), ("depth",))
        convert(tmp_path / "in", tmp_path / "one", options=options, size=(8, 8))
        source = open_source(ShardsSource(root=str(tmp_path / "one")), ("depth",))
        assert source.image_size == (8, 8)


class TestSource:
    """Prepared shards as the source of a run."""

    @pytest.fixture
    def out(self, tmp_path, atrc):
        convert(tmp_path / "in", tmp_path / "out", per_shard=3)
        return str(tmp_path / "out")

    def test_labels_come_back_as_the_layout_gave_them(self, out, atrc):
        source = open_source(ShardsSource(root=out), ("semseg", "depth"), num_classes=40)
        assert (source.name, source.num_classes) == ("nyud_mt_atrc", 40)
        assert source.image_size == (nyu_files.H, nyu_files.W)
        samples = [s for shard in source.shards("test") for s in source.read(shard)]
        assert [sample.key for sample in samples] == ["0005", "0006"]
        for sample in samples:
            pair = atrc[sample.key]
            assert set(sample.labels) == {"semseg", "depth"}
            np.testing.assert_allclose(sample.labels["depth"], pair.depth_m, atol=1e-6)
            ids = np.where(pair.ids == 0, 255, pair.ids.astype(int) - 1)
            np.testing.assert_array_equal(sample.labels["semseg"], ids)

    def test_keys_are_read_in_the_order_given(self, out):
        source = open_source(ShardsSource(root=out, validation_fraction=0), ("depth",))
        shard = source.shards("train")[0]
        found = [sample.key for sample in source.read(shard, ("0002", "0000"))]
        assert found == ["0002", "0000"]
        (missing,) = source.read(shard, ("9999",))
        assert isinstance(missing, UnreadableSample)
        assert missing.reason == "key_missing"

    def test_limits_take_evenly_spaced_samples(self, out):
        config = ShardsSource(root=out, num_labelled=2, num_test=1, validation_fraction=0)
        source = open_source(config, ("depth",))
        keys = [key for shard in source.shards("train") for key in shard.keys]
        assert keys == ["0000", "0002"]
        rest = [key for shard in source.shards("unlabelled") for key in shard.keys]
        assert rest == ["0001", "0003", "0004"]
        assert [len(shard.keys) for shard in source.shards("test")] == [1]
        with pytest.raises(SourceError, match=r"source\.num_labelled = 9: .* has \d+ images"):
            open_source(ShardsSource(root=out, num_labelled=9), ("depth",))

    def test_a_task_without_labels_is_an_error(self, out):
        with pytest.raises(ConfigError, match=r"method\.tasks: .*no labels of saliency"):
            open_source(ShardsSource(root=out), ("saliency",))
        with pytest.raises(ConfigError, match=r"set method\.num_classes=40"):
            open_source(ShardsSource(root=out), ("semseg",), num_classes=21)

    def test_a_damaged_shard_is_not_read(self, out):
        store = open_store(out)
        data = bytearray(store.read_bytes("test-000000.tar"))
        data[700] ^= 1
        store.write_bytes("test-000000.tar", bytes(data))
        source = open_source(ShardsSource(root=out), ("depth",))
        with pytest.raises(SourceError, match=r"test-000000\.tar: wanted sha256"):
            list(source.read(source.shards("test")[0]))

    def test_a_folder_without_a_manifest_says_what_to_do(self, tmp_path):
        with pytest.raises(SourceError, match=r"no manifest\.parquet there; .*jobs/prepare\.py"):
            open_source(ShardsSource(root=str(tmp_path)), ("depth",))
        (tmp_path / "manifest.parquet").write_bytes(b"no parquet")
        with pytest.raises(SourceError, match=r"manifest\.parquet: wanted Parquet"):
            open_source(ShardsSource(root=str(tmp_path)), ("depth",))

    def test_shards_made_elsewhere_need_only_the_manifest(self, out):
        store = open_store(out)
        store.write_bytes("prepared.json", b"{}")
        with pytest.raises(SourceError, match=r"prepared\.json"):
            open_source(ShardsSource(root=out), ("depth",))
        store.fs.rm(f"{store.root}/prepared.json")
        source = open_source(ShardsSource(root=out), ("depth",))
        assert (source.name, source.num_classes) == ("shards", 0)
        with pytest.raises(SourceError, match=r"set source\.num_classes"):
            open_source(ShardsSource(root=out), ("semseg",))
        assert open_source(ShardsSource(root=out, num_classes=40), ("semseg",)).num_classes == 40

    def test_the_shipped_rooms_are_such_shards_too(self):
        source = open_source(ShardsSource(root="data/rooms", num_labelled=1), ("depth",))
        assert source.image_size == (64, 64)
        assert sum(len(shard.keys) for shard in source.shards("test")) == 256


def many_bae(root, count):
    nyu_files.write_bae(root, {"train": count, "test": 1})
    return root


class TestHeldOut:
    """A validation split of data sets that have none."""

    def keys(self, root, fraction, split):
        source = open_source(ShardsSource(root=root, validation_fraction=fraction), ("normals",))
        return {key for shard in source.shards(split) for key in shard.keys}

    def test_the_share_is_held_out_disjointly_and_always_the_same(self, tmp_path):
        convert(many_bae(tmp_path / "in", 120), tmp_path / "out", layout="nyu_bae", size=(2, 2))
        out = str(tmp_path / "out")
        train, held = (self.keys(out, 0.25, split) for split in ("train", "validation"))
        assert not train & held
        assert len(train | held) == 120
        assert 15 <= len(held) <= 45
        assert held == self.keys(out, 0.25, "validation")
        # A smaller share is a part of a greater one, so scores stay comparable.
        assert self.keys(out, 0.1, "validation") < held
        assert self.keys(out, 0, "validation") == set()

    def test_samples_of_one_scene_stay_together(self, tmp_path):
        nyu_files.write_mat(tmp_path / "in", train=40, test=2)
        convert(tmp_path / "in", tmp_path / "out", layout="nyu_depth_v2", size=(2, 2))
        source = open_source(
            ShardsSource(root=str(tmp_path / "out"), validation_fraction=0.4), ("depth",)
        )
        scenes = [
            {
                sample.meta["group"]
                for shard in source.shards(split)
                for sample in source.read(shard)
            }
            for split in ("train", "validation")
        ]
        assert scenes[0]
        assert scenes[1]
        assert not scenes[0] & scenes[1]
