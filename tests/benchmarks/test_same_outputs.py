"""The digests of a run see what a run computes, and nothing of the machine or the moment."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save

from benchmarks.same_outputs import digests
from storage.files.stores import open_store
from tests.kit.committed_units import commit, image_unit, relabel_unit


@pytest.fixture
def small_run(tmp_path):
    def make(name, *, version=1, created_at="2026-01-01T00:00:00+00:00", weight=1.0, rmse=0.5):
        folder = tmp_path / name
        store, images = open_store(str(folder)), image_unit("a")
        commit(store, images, version=0, created_at=created_at)
        commit(store, relabel_unit(images, round_index=1), version=version, created_at=created_at)
        weights = save({"w": np.full(2, weight, np.float32)})
        store.write_bytes("weights/0.safetensors", weights)
        results = {"rmse": rmse, "seconds": created_at}
        folder.joinpath("results.json").write_text(json.dumps(results))
        return digests(folder)

    return make


def test_equal_runs_of_two_days_have_equal_digests(small_run):
    assert small_run("one") == small_run("two", created_at="2026-12-24T00:00:00+00:00")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"version": 2}, {"rows", "samples"}),
        ({"weight": 2}, {"weights"}),
        ({"rmse": 0.6}, {"scores"}),
    ],
)
def test_what_a_run_computed_changes_its_digest(small_run, change, parts):
    before, after = small_run("before"), small_run("after", **change)
    assert {part for part in before if before[part] != after[part]} == parts
