"""The whole loop in one process with a creator that learns before it makes anything."""

from __future__ import annotations

import json

import pytest

from runs.contact_sheet import rows_of_run
from runs.directory import claim_run_directory
from runs.generation import plan_of
from runs.local_loop import run_locally
from runs.status import read_status
from schemas.run_layout import CREATOR_DIR
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.records.weights import list_versions
from tests.kit.small_loop import make_loop_config
from tests.kit.wholeness import expect_whole

SHORT = {
    "warm_up": {"steps": 4, "batch_size": 4},
    "self_improve": {"steps": 10, "batch_size": 4},
}
CREATOR = {"steps": 3, "batch_size": 4, "ema_decay": 0.5, "lora_rank": 2}


@pytest.mark.slow
def test_the_creator_learns_once_and_makes_the_whole_plan(tmp_path):
    config = make_loop_config(
        tmp_path, plan={"images": "fresh"}, training=SHORT | {"creator": CREATOR}
    )
    store = open_store(config.run.url)
    config = claim_run_directory(store, config)
    scores = run_locally(config, store, result="self_improved")
    assert list(scores) == ["warm_up", "self_improved"]
    assert list_versions(store, series="creator") == [0]
    final = json.loads(store.read_bytes("checkpoints/creator/final/final.json"))
    assert (final["step"], final["version"]) == (3, 0)
    rows = expect_whole(config.run.url, plan_of(config))
    assert {row["creator_version"] for row in rows} == {0}
    assert {row["round"] for row in rows} == {0, 1}
    assert read_status(store)["stages_ended"] == ["warm_up", "creator", "self_improve"]
    before = store.find("")
    run_locally(config, store, result="self_improved")
    assert [path for path in store.find("") if path not in before] == []


@pytest.mark.slow
def test_a_creator_of_pairs_makes_the_whole_plan_and_its_labels_are_learnt_from(tmp_path):
    pairs = {"steps": 3, "batch_size": 4, "ema_decay": 0.5}
    config = make_loop_config(
        tmp_path,
        creator={"kind": "mtdiffusion"},
        labelling={"origin": "agreed", "max_disagreement_deg": 90.0},
        training=SHORT | {"creator": pairs},
    )
    store = open_store(config.run.url)
    run_locally(config, store, result="self_improved")
    rows = expect_whole(config.run.url, plan_of(config))
    assert {row["round"] for row in rows} == {0, 1}
    assert {row["label_origin"] for row in rows} == {"agreed"}
    sheet = rows_of_run(store, open_run_source(config), limit=4)
    assert all(set(row.maps) == {"normals"} for row in sheet)
    shares = [json.loads(row["label_stats"])["normals_agreement"] for row in rows]
    assert 0 < sum(shares) / len(shares) <= 1


@pytest.mark.slow
def test_without_the_section_nothing_of_it_is_there(tmp_path):
    config = make_loop_config(tmp_path, training=SHORT)
    store = open_store(config.run.url)
    run_locally(config, store, result="self_improved")
    assert not store.find(CREATOR_DIR)
    assert not store.find("checkpoints/creator")
    rows = expect_whole(config.run.url, plan_of(config))
    assert {(row["creator_version"], row["creator_hash"]) for row in rows} == {(-1, "")}
