"""Retries: failed samples are made again, what stands is never lost, nothing is visible twice."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.retry import main
from pipeline.loop.local_runner import run_units, take_newest
from pipeline.loop.retry import IMAGES_GONE, PARENT_FIRST, plan_retry
from pipeline.make.attempt import Attempt
from pipeline.make.caption import SourceCaptions, caption_missing, missing_captions
from pipeline.make.commit import commit_failed_unit
from pipeline.make.isolate import Failure
from runs.directory import claim_run_directory
from runs.generation import plan_of
from runs.retry import describe_retry, plan_of_retry
from schemas.errors import ConfigError, RunFailedError
from sources.live_shards import LiveShardList
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.manifests.table import ManifestReader, manifest_table
from storage.manifests.unit_outcome import UnitCommit
from storage.records.weights import WeightsWatch
from tests.kit.committed_units import commit, image_unit, relabel_unit
from tests.kit.small_run import (
    BROKEN_KEY,
    all_commits,
    digests,
    make_config,
    make_control,
    make_generator,
    prepare,
    publish,
    write_source,
)


def changed(made: UnitCommit, **changes: str) -> UnitCommit:
    """The same commit, its last row changed."""
    return replace(made, rows=[*made.rows[:-1], replace(made.rows[-1], **changes)])


@pytest.fixture
def made(tmp_path) -> UnitCommit:
    return commit(open_store(str(tmp_path)), image_unit("a"), version=0, filtered=("a1",))


def test_units_with_failed_samples_are_planned_as_their_next_revision(made):
    failed = changed(made, status="failed", error_class="out_of_memory")
    plan = plan_retry([failed])
    assert [(u.unit_id, u.revision) for u in plan.units] == [(made.unit.unit_id, 1)]
    assert plan.reasons == Counter({"out_of_memory": 1})
    assert plan_retry([replace(failed, unit=plan.units[0])]).units[0].revision == 2


def test_filtered_samples_are_retried_only_if_their_reason_is_named(made):
    assert plan_retry([made]).units == ()
    assert len(plan_retry([made], reasons=["flat_image"]).units) == 1
    assert plan_retry([made], reasons=["other"]).units == ()


def test_a_named_unit_is_planned_whatever_it_holds(made):
    assert len(plan_retry([made], unit_ids=[made.unit.unit_id]).units) == 1
    assert plan_retry([made], unit_ids=["another"]).units == ()


@pytest.mark.parametrize(
    ("status", "obstacle"), [("failed", PARENT_FIRST), ("collected", IMAGES_GONE), ("ok", None)]
)
def test_labels_are_retried_only_where_their_images_are_there(tmp_path, made, status, obstacle):
    later = relabel_unit(made.unit, round_index=1)
    failed = commit(open_store(str(tmp_path)), later, version=1)
    commits = [changed(failed, status="failed"), changed(made, status=status)]
    plan = plan_retry(commits)
    assert plan.left_out == ({later.unit_id: obstacle} if obstacle else {})
    assert (later.unit_id in {unit.unit_id for unit in plan.units}) == (obstacle is None)


def broken_run(tmp_path, **changes):
    """A run whose source had an image that could not be read, and has been mended since."""
    write_source(tmp_path / "source", with_broken_image=True)
    config = make_config(tmp_path, **changes)
    store = prepare(config)
    claim_run_directory(store, config)
    run_units(make_control(config, weights_final=True), make_generator(config), store)
    shutil.rmtree(tmp_path / "source")
    write_source(tmp_path / "source")
    return config, store


@pytest.mark.slow
def test_a_retry_heals_what_can_be_healed_and_nothing_else_changes(tmp_path, capsys):
    config, store = broken_run(tmp_path)
    before, live = digests(config), LiveShardList(store, poll_s=0)
    live.refresh()
    assert live.num_samples == 7
    main([config.run.url, "--dry-run"])
    assert "1 unit to retry, 2 samples" in capsys.readouterr().out
    assert digests(config) == before
    main([config.run.url, "--local"])
    assert "1 before, 2 now" in capsys.readouterr().out
    after = digests(config)
    assert before.keys() <= after.keys()
    assert any(BROKEN_KEY in key for _, key, _ in after.keys() - before.keys())
    # Nothing is visible twice: to a reader that was there, a new one, and as a table.
    live.refresh()
    assert (live.num_samples, live.num_units) == (8, 4)
    assert len(ManifestReader(store).refresh()) == 4
    assert manifest_table(store).num_rows == 8
    assert plan_of_retry(store, config).units == ()
    # The run's own plan is as committed as before.
    decision = run_units(make_control(config, weights_final=True), make_generator(config), store)
    assert decision.kind == "finished"
    assert digests(config) == after


@pytest.mark.slow
def test_a_retry_that_is_no_better_leaves_what_stands_and_ends(tmp_path, capsys):
    config, store = broken_run(tmp_path)
    shutil.rmtree(tmp_path / "source")
    write_source(tmp_path / "source", with_broken_image=True)
    before, tars = digests(config), sorted(Path(store.root).rglob("*.tar"))
    with pytest.raises(RunFailedError, match=r"1 sample failed again: decode_failed \(1\)"):
        main([config.run.url, "--local"])
    assert "1 before, 1 now" in capsys.readouterr().out
    assert digests(config) == before
    assert sorted(Path(store.root).rglob("*.tar")) == tars
    (unit,) = plan_of_retry(store, config).units
    assert unit.revision == 2, "the try is on record"


@pytest.mark.slow
def test_a_retry_whose_every_attempt_fails_leaves_what_stands(tmp_path):
    config, store = broken_run(tmp_path)
    before = digests(config)
    (unit,) = plan_of_retry(store, config).units
    commit_failed_unit(
        store, config, unit, failure=Failure("killed", "x"), attempt=Attempt("a03-failed")
    )
    assert digests(config) == before
    (retried,) = [c for c in all_commits(config) if c.unit.revision]
    assert retried.summary["retried_in_vain"]["counts"]["failed"] == 2


@pytest.mark.slow
def test_a_unit_whose_shard_is_damaged_is_replaced_when_named(tmp_path):
    config, store = broken_run(tmp_path)
    before = digests(config)
    # Ids of units depend on the models' folder, so any unit may come first, the failed one too.
    row = next(row for commit in all_commits(config) for row in commit.rows if row.tar_uri)
    store.write_bytes(row.tar_uri, b"damaged")
    main([config.run.url, "--local", "--units", row.unit_id])
    assert digests(config).keys() >= before.keys()


@pytest.mark.slow
def test_a_unit_that_failed_whole_is_made_again_with_the_newest_weights(tmp_path):
    config = make_config(tmp_path)
    store = prepare(config)
    claim_run_directory(store, config)
    unit = plan_of(config)[0]
    commit_failed_unit(
        store, config, unit, failure=Failure("killed", "x"), attempt=Attempt("a1-failed")
    )
    run_units(make_control(config, weights_final=True), make_generator(config), store)
    publish(config, 1)
    main([config.run.url, "--local", "--reasons", "killed"])
    rows = {c.unit.unit_id: c.rows for c in all_commits(config)}
    assert {row.creation_version for row in rows[unit.unit_id]} == {1}
    assert {row.status for unit_rows in rows.values() for row in unit_rows} == {"ok"}


@pytest.mark.slow
def test_failed_labels_are_retried_on_the_images_that_are_there(tmp_path):
    config = make_config(tmp_path, plan={"rounds": 2})
    store = prepare(config)
    claim_run_directory(store, config)
    run_units(make_control(config), make_generator(config), store)
    publish(config, 1, seen_images=24)
    later = next(unit for unit in plan_of(config) if unit.round == 1)
    commit_failed_unit(
        store, config, later, failure=Failure("killed", "x"), attempt=Attempt("a1-failed")
    )
    main([config.run.url, "--local"])
    (retried,) = [c for c in all_commits(config) if c.unit.revision]
    assert retried.unit.unit_id == later.unit_id
    assert {row.status for row in retried.rows} == {"ok"}
    assert {row.creation_version for row in retried.rows} == {1}


@pytest.mark.slow
def test_of_two_retries_one_is_visible(tmp_path):
    config, store = broken_run(tmp_path)
    (unit,) = plan_of_retry(store, config).units
    missing = missing_captions(store, [unit])
    caption_missing(store, open_run_source(config), SourceCaptions(), missing)
    first = make_generator(config)
    take_newest(first, WeightsWatch(store))
    assert first.generate(unit, Attempt("one")).is_committed
    after = digests(config)
    assert not first.generate(unit, Attempt("two")).is_committed
    assert digests(config) == after


def test_a_unit_that_is_not_there_is_an_error(tmp_path):
    config, store = broken_run(tmp_path)
    with pytest.raises(ConfigError, match="not committed"):
        plan_of_retry(store, config, unit_ids=["0" * 16])


def test_the_plan_says_what_is_left_out(made):
    parent = changed(made, status="failed")
    later = relabel_unit(made.unit, round_index=1)
    rows = [replace(row, unit_id=later.unit_id) for row in parent.rows]
    lines = describe_retry(plan_retry([parent, UnitCommit(unit=later, rows=rows)]))
    assert any("left out" in line and later.unit_id in line for line in lines)
