"""The whole loop on real photographs, shortened, in one process."""

from __future__ import annotations

from collections import Counter

import pytest

from runs.contact_sheet import contact_sheet_from_run
from runs.local_loop import run_locally
from schemas.config_file import load_config
from storage.files.stores import open_store
from tests.kit.job_process import FEW_STEPS
from tests.kit.layouts.nyuv2 import nyuv2_folder
from tests.kit.run_reader import PNG_SIGNATURE, manifest_rows, sha256, tars

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_PHOTOGRAPHS = 32

CHANGES = (
    f"source.num_labelled={NUM_PHOTOGRAPHS}",
    "source.num_validation=8",
    "source.num_test=16",
    f"training.min_synthetic_samples={NUM_PHOTOGRAPHS}",
    *FEW_STEPS,
)


def test_the_loop_runs_on_photographs_from_a_folder(tmp_path, monkeypatch):
    photographs, run = nyuv2_folder(), tmp_path / "run"
    monkeypatch.setenv("NYUV2_DIR", str(photographs))
    config = load_config("configs/nyuv2_tiny_cpu.yaml", (f"run.url={run}", *CHANGES))
    store = open_store(config.run.url)
    results = run_locally(config, store, result="self_improved")
    contact_sheet_from_run(config, store)
    rows = manifest_rows(run)
    assert Counter(row["round"] for row in rows) == {0: NUM_PHOTOGRAPHS, 1: NUM_PHOTOGRAPHS}
    assert len({(row["round"], row["source_key"]) for row in rows}) == 2 * NUM_PHOTOGRAPHS
    assert all(row["source_uri"].startswith(str(photographs.resolve())) for row in rows)
    assert all(row["caption"] for row in rows)
    promised = tars(run)
    assert promised
    assert {uri: sha256(run / uri) for uri in promised} == promised
    for name in ("warm_up", "self_improved"):
        assert 0 < results[name]["normals"]["mean_deg"] < 180
    assert (run / "contact_sheet.png").read_bytes().startswith(PNG_SIGNATURE)
