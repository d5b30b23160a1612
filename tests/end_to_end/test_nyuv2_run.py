"""The whole loop on real photographs, shortened."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.end_to_end.job_process import (
    FEW_STEPS,
    arguments_of,
    environment,
    finish_job,
    ray_folder,
)
from tests.end_to_end.run_reader import PNG_SIGNATURE, manifest_rows, sha256, tars
from tests.sources.nyuv2 import nyuv2_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_PHOTOGRAPHS = 64
CHANGES = (
    f"source.num_labelled={NUM_PHOTOGRAPHS}",
    "source.num_validation=8",
    "source.num_test=16",
    "evaluation.control=false",
    f"training.min_synthetic_samples={NUM_PHOTOGRAPHS}",
    *FEW_STEPS,
)


def test_the_loop_runs_on_photographs_from_a_folder(tmp_path):
    photographs = nyuv2_folder()
    run = tmp_path / "run"
    with ray_folder() as ray:
        ended = finish_job(
            "self_improve",
            arguments_of("configs/nyuv2_tiny_cpu.yaml", run, *CHANGES),
            log=tmp_path / "job.log",
            environment=environment(ray, NYUV2_DIR=str(photographs)),
        )
    assert ended.code == 0, ended.output
    assert ended.survivors == []

    rows = manifest_rows(run)
    assert Counter(row["round"] for row in rows) == {0: NUM_PHOTOGRAPHS, 1: NUM_PHOTOGRAPHS}
    assert len({(row["round"], row["source_key"]) for row in rows}) == 2 * NUM_PHOTOGRAPHS
    assert all(row["source_uri"].startswith(str(photographs.resolve())) for row in rows)
    assert all(row["caption"] for row in rows)
    promised = tars(run)
    assert promised
    assert {uri: sha256(run / uri) for uri in promised} == promised
    results = json.loads((run / "results.json").read_text())
    for name in ("warm_up", "self_improved"):
        assert 0 < results[name]["normals"]["mean_deg"] < 180
    assert (run / "contact_sheet.png").read_bytes().startswith(PNG_SIGNATURE)
