"""What docs/train-elsewhere.md reads of a run is what the project wrote."""

from __future__ import annotations

import runpy
from types import SimpleNamespace

import numpy as np
import pytest

from schemas.sample import TASKS
from schemas.unit import synthetic_key
from storage.files.stores import open_store
from storage.manifests.compaction import compact
from storage.samples.codecs import decode_sample, encode_sample
from tests.kit.committed_units import commit, image_unit, relabel_unit
from tests.kit.pages.blocks import ROOT, blocks_of
from tests.kit.random_labels import random_sample


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> SimpleNamespace:
    """The page's module."""
    page = ROOT / "docs" / "train-elsewhere.md"
    (text,) = (block.text for block in blocks_of(page) if block.file == "pairs.py")
    path = tmp_path_factory.mktemp("page") / "pairs.py"
    path.write_text(text)
    return SimpleNamespace(**runpy.run_path(str(path)))


@pytest.mark.parametrize("is_compacted", [False, True], ids=["own files", "compacted"])
def test_every_image_comes_once_with_its_newest_labels(pairs, tmp_path, is_compacted):
    store = open_store(str(tmp_path))
    first, second = image_unit("a"), image_unit("b")
    name_of = {synthetic_key(unit, key, 0): key for unit in (first, second) for key in unit.keys}
    commit(store, first, version=0)
    commit(store, second, version=0, filtered=("b1",))
    commit(store, relabel_unit(first, round_index=1), version=4, filtered=("a2",))
    if is_compacted:
        compact(store, keep_rest=False)
    depths = {}
    for key, *place in pairs.newest(tmp_path):
        assert key not in depths
        depth = pairs.decode("depth.png", pairs.read(tmp_path, *place)["depth.png"])
        depths[name_of[key]] = float(depth.mean())
    # What was screened out in the second round keeps its labels of the first.
    newest = {"a0": 5.0, "a1": 5.0, "a2": 1.0, "a3": 5.0}
    assert depths == newest | {"b0": 1.0, "b2": 1.0, "b3": 1.0}


def test_every_label_is_decoded_as_the_project_decodes_it(pairs):
    members = encode_sample(random_sample())
    sample = decode_sample("s0", members)
    np.testing.assert_array_equal(pairs.decode("image.png", members["image.png"]), sample.image)
    for task in TASKS:
        found = pairs.decode(f"{task}.png", members[f"{task}.png"])
        assert found.dtype == sample.labels[task].dtype
        np.testing.assert_allclose(found, sample.labels[task], atol=1e-6)
