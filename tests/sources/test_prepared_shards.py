"""Prepared shards as the source of a run."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.config_source import ShardsSource
from schemas.errors import SourceError
from sources.layouts.protocol import LayoutOptions
from sources.open import open_source
from sources.prepare.prepare import PrepareRequest, open_files, prepare
from storage.files.stores import open_store
from tests.kit.layouts import nyu_files


def convert(root, out, layout="nyud_mt_atrc", **options):
    request = PrepareRequest(layout=layout, root=root, out=str(out), **options)
    return prepare(request, open_files(request))


@pytest.fixture
def atrc(tmp_path):
    return nyu_files.write_atrc(tmp_path / "in", train=5, test=2)


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

    def test_a_folder_without_a_manifest_says_what_to_do(self, tmp_path):
        with pytest.raises(SourceError, match=r"no manifest\.parquet there; .*jobs/prepare\.py"):
            open_source(ShardsSource(root=str(tmp_path)), ("depth",))
        (tmp_path / "manifest.parquet").write_bytes(b"no parquet")
        with pytest.raises(SourceError, match=r"manifest\.parquet: wanted Parquet"):
            open_source(ShardsSource(root=str(tmp_path)), ("depth",))

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
