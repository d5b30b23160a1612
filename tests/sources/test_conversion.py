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

from schemas.config_source import ShardsSource
from schemas.errors import SourceError
from sources.layouts.protocol import LayoutOptions
from sources.open import open_source
from sources.prepare.convert import plan_shards
from sources.prepare.prepare import PrepareRequest, open_files, prepare, resolve_layout
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
        lines = []
        request = PrepareRequest(
            layout="nyud_mt_atrc", root=tmp_path / "in", out=str(tmp_path / "out"), per_shard=3
        )
        prepare(request, open_files(request), progress=lines.append)
        assert lines == ["0 of 3 shards to make"]
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
