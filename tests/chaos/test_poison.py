"""Samples that break the model, kill its process or make it hang: each costs only itself."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline.make.attempt import DEATHS_OF_A_KILLER
from tests.kit.faults.cluster import (
    WAIT_S,
    events_of,
    expect_planned_is_committed,
    running_cluster,
    wait_until,
)
from tests.kit.faults.faults import LOADING, Faults
from tests.kit.small_run import make_config, prepare

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

POISON = "train-000000-02"
LATE = "train-000001-02"
"""Seventh of eight units of one sample: how long one takes is known by then."""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with running_cluster(num_nodes=1) as made:
        yield made


@pytest.mark.smoke
def test_a_sample_that_breaks_the_model_becomes_a_row_with_a_reason(tmp_path, start_loop):
    config = make_config(tmp_path, plan={"unit_size": 4})
    Faults(config.run.url).break_model(POISON)
    prepare(config)
    assert start_loop(config).join(WAIT_S) == "finished"
    rows = {row["source_key"]: row for row in expect_planned_is_committed(config)}
    poisoned = rows.pop(POISON)
    assert (poisoned["status"], poisoned["error_class"]) == ("failed", "RuntimeError")
    assert poisoned["error_msg"] == f"poisoned by {POISON}"
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_a_sample_that_kills_its_process_becomes_a_row_and_all_others_are_made(
    tmp_path, start_loop
):
    config = make_config(tmp_path, plan={"unit_size": 4})
    faults = Faults(config.run.url)
    faults.kill_maker(POISON)
    store = prepare(config)
    loop = start_loop(config)
    assert loop.join(WAIT_S) == "finished"
    rows = {row["source_key"]: row for row in expect_planned_is_committed(config)}
    guilty = rows.pop(POISON)
    assert (guilty["status"], guilty["error_class"]) == ("failed", "killed_its_process")
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert faults.deaths() == 1 + DEATHS_OF_A_KILLER
    assert store.list_dir("suspects") == []


def test_what_is_known_of_a_killer_outlives_the_driver(tmp_path, start_loop):
    config = make_config(tmp_path, plan={"unit_size": 4})
    faults = Faults(config.run.url)
    faults.kill_maker(POISON)
    prepare(config)
    loop = start_loop(config)
    wait_until(lambda: len(events_of(loop, "attempt_failed")) == 2, "two deaths", loop)
    loop.stop(timeout_s=0)
    assert start_loop(config).join(WAIT_S) == "finished"
    rows = expect_planned_is_committed(config)
    assert [row["source_key"] for row in rows if row["status"] == "failed"] == [POISON]
    assert faults.deaths() <= 2 + DEATHS_OF_A_KILLER


def hang(faults, loop):
    """Stop the generator that is held, and hold nobody any more; returns its process."""
    wait_until(faults.held, "a generator that is held", loop)
    (pid,) = faults.held()
    os.kill(pid, signal.SIGSTOP)
    faults.release()
    return pid


def test_a_generator_that_hangs_is_told_by_the_time_that_units_usually_take(tmp_path, start_loop):
    limits = {"min_unit_timeout_s": 2.0, "unit_timeout_s": 1800.0}
    config = make_config(tmp_path, plan={"unit_size": 1}, generation=limits)
    faults = Faults(config.run.url)
    faults.hold(LATE)
    prepare(config)
    loop = start_loop(config)
    pid = hang(faults, loop)
    assert loop.join(WAIT_S) == "finished"
    assert {row["status"] for row in expect_planned_is_committed(config)} == {"ok"}
    (failed,) = events_of(loop, "attempt_failed")
    assert failed["reason"] == "timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_generator_that_hangs_while_it_loads_its_models_is_started_again(tmp_path, start_loop):
    config = make_config(tmp_path, generation={"unit_timeout_s": 20.0})
    faults = Faults(config.run.url)
    faults.hold(LOADING)
    prepare(config)
    loop = start_loop(config)
    pid = hang(faults, loop)
    assert loop.join(WAIT_S) == "finished"
    assert {row["status"] for row in expect_planned_is_committed(config)} == {"ok"}
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
