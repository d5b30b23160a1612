"""The whole loop in one process, on every kind of store."""

from __future__ import annotations

import json
import uuid

import pytest

from runs.generation import plan_of
from runs.local_loop import run_locally
from storage.files.stores import open_store
from storage.records.weights import list_versions
from tests.kit.small_loop import make_loop_config
from tests.kit.wholeness import expect_whole

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["local", "memory", "s3"])
def test_the_loop_makes_the_whole_plan_and_scores_it(kind, tmp_path, request):
    urls = {
        "local": lambda: str(tmp_path / "run"),
        "memory": lambda: f"memory://{uuid.uuid4().hex}",
        "s3": lambda: f"{request.getfixturevalue('s3_url')}/{uuid.uuid4().hex}",
    }
    config = make_loop_config(
        tmp_path,
        run={"url": urls[kind]()},
        training={
            "warm_up": {"steps": 4, "batch_size": 4},
            "self_improve": {"steps": 10, "batch_size": 4},
        },
    )
    store = open_store(config.run.url)
    scores = run_locally(config, store, result="self_improved")
    assert scores["self_improved"]["normals"]["mean_deg"] > 0
    assert list_versions(store) == [0, 1, 2]
    rows = expect_whole(config.run.url, plan_of(config))
    assert {row["status"] for row in rows} == {"ok"}
    final = json.loads(store.read_bytes("checkpoints/self_improve/final/final.json"))
    assert final["step"] == 10
    assert len(store.list_dir("checkpoints/self_improve/local")) >= 1
