"""The job that tells how a run stands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobs.status import main
from runs.directory import claim_run_directory
from runs.results import write_results
from runs.status import count_rows, read_status, show_status
from schemas.config import RunConfig
from schemas.errors import ConfigError
from storage.files.stores import RunStore, open_store
from storage.records.captions import CaptionRow, write_captions
from storage.records.events import EventWriter
from storage.records.run_lock import take_run
from tests.kit.committed_units import commit, image_unit, publish, relabel_unit
from tests.kit.small_run import make_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return make_config(tmp_path)


@pytest.fixture
def store(config) -> RunStore:
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    return store


def tell_progress(store: RunStore, stage: str, *, step: int = 5) -> None:
    events = EventWriter(store, f"trainer-{stage}")
    events.emit(
        "trainer_progress",
        stage=stage,
        step=step,
        steps=20,
        images_per_s=12.5,
        staleness_mean=0.5,
    )
    events.flush()


def test_a_new_run_has_nothing_yet(store):
    status = read_status(store)
    assert status["stage"] == "before warm_up"
    assert status["units"]["committed"] == 0
    assert status["samples"] == {"by_status": {}, "by_reason": {}, "by_creation_version": {}}
    assert status["rates"] == {"generated_per_s": None, "trained_per_s": None}


def test_samples_are_counted_by_status_reason_and_version(store):
    first = image_unit("a")
    commit(store, first, version=0, filtered=("a1",))
    commit(store, image_unit("b"), version=0, created_at="2026-01-01T00:00:08+00:00")
    commit(store, relabel_unit(first, round_index=1), version=2)
    status = read_status(store)
    assert status["units"]["committed"] == 3
    assert status["samples"] == {
        "by_status": {"filtered": 1, "ok": 11},
        "by_reason": {"flat_image": 1},
        "by_creation_version": {"0": 7, "2": 4},
    }
    assert status["rates"]["generated_per_s"] == 0.5


def test_samples_of_a_creator_that_learns_are_counted_by_its_versions_too(store, capsys):
    versions = [publish(store, version, series="creator") for version in range(2)]
    commit(store, image_unit("a"), version=0, creator=versions[0])
    commit(store, image_unit("b"), version=0, creator=versions[1], filtered=("b1",))
    status = read_status(store)
    assert status["samples"]["by_creator_version"] == {"0": 4, "1": 3}
    assert "by_label_origin" not in status["samples"]
    assert [line["version"] for line in status["creator_weights"]] == [0, 1]
    assert status["weights"] == []
    show_status(status, Console())
    assert "creator's version" in capsys.readouterr().out


def test_labels_are_counted_by_origin_where_not_all_are_predicted():
    rows = commit(open_store("memory://origins"), image_unit("a"), version=0).rows
    assert "by_label_origin" not in count_rows(rows)
    agreed = [replace(row, label_origin="agreed") for row in rows[:3]]
    assert count_rows([*agreed, rows[3]])["by_label_origin"] == {"agreed": 3, "creation": 1}


@pytest.mark.parametrize(
    ("series", "name"), [("creation", "weights"), ("creator", "creator_weights")]
)
def test_published_versions_are_listed_with_their_times(store, series, name):
    publish(store, 0, series=series)
    publish(store, 1, series=series)
    lines = read_status(store)[name]
    assert [(line["version"], line["stage"]) for line in lines] == [
        (0, "warm_up"),
        (1, "self_improve"),
    ]
    assert lines[1]["created_at"]


def test_the_stage_follows_progress_and_ends(store):
    tell_progress(store, "warm_up")
    assert read_status(store)["stage"] == "warm_up"
    store.write_bytes("checkpoints/warm_up/final/final.json", b"{}")
    assert read_status(store)["stage"] == "after warm_up"
    tell_progress(store, "self_improve")
    status = read_status(store)
    assert status["stage"] == "self_improve"
    assert status["stages_ended"] == ["warm_up"]
    assert status["rates"]["trained_per_s"] == 12.5
    write_results(store, {"warm_up": {}})
    assert read_status(store)["stage"] == "finished"


def test_planned_units_are_known_where_the_source_is(store, config):
    assert read_status(store)["units"]["planned"] == 4
    shutil.rmtree(config.source.root)
    assert read_status(store)["units"]["planned"] is None


def test_captions_and_events_are_told(store):
    write_captions(store, "train-000000", [CaptionRow("k", "a room", "m")])
    writer = EventWriter(store, "coordinator")
    writer.emit("unit_failed", unit="abc", reason="Timeout")
    writer.flush()
    status = read_status(store)
    assert status["captioned_shards"] == 1
    assert [event["event"] for event in status["events"]] == ["unit_failed"]


def test_the_job_prints_a_table_or_json(store, config, capsys):
    commit(store, image_unit("a"), version=0)
    publish(store, 0)
    tell_progress(store, "self_improve", step=7)
    main([config.run.url])
    shown = capsys.readouterr().out
    assert "1 / 4" in shown
    assert "7 / 20" in shown
    main([config.run.url, "--json"])
    assert json.loads(capsys.readouterr().out)["units"]["committed"] == 1


def test_a_long_url_and_long_reasons_are_folded_and_never_cut(store, config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    publish(store, 0)
    status = read_status(store)
    long = f"s3://bucket/{'prefix' * 20}/[x]run"
    status |= {"run": long, "state": {"name": "failed", "reason": "y" * 150, "resume": "z" * 150}}
    show_status(status, Console())
    shown = capsys.readouterr().out
    assert "…" not in shown
    whole = "".join(shown.replace("│", "").replace("┃", "").split())
    # The header's label stands beside its last line.
    assert long.replace("run", "") in whole.replace("run", "")
    assert whole.count("y") >= 150
    assert f"resume with: {'z' * 150}\n" in shown


def test_a_directory_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no run"):
        read_status(open_store(str(tmp_path)))


@pytest.mark.slow
def test_status_needs_neither_models_nor_a_cluster(store, config):
    code = (
        "import sys; from jobs.status import main; main([sys.argv[1]]); "
        "assert not {'torch', 'ray', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, config.run.url],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_driver_is_named_with_host_process_and_time(store, capsys):
    lock = take_run(store, job="self_improve", roles=("generate", "train"))
    (driver,) = read_status(store)["drivers"]
    assert (driver["epoch"], driver["pid"]) == (lock.epoch, os.getpid())
    main([store.url])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"pid {os.getpid()}, since {driver['started_at']}, epoch {lock.epoch}" in printed
