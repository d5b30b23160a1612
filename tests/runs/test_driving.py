"""A driver whose run is taken over ends by itself, wherever it is."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import suppress

import pytest

from runs.driving import driving, stopped_when_fenced
from runs.state import run_state
from schemas.errors import FencedError, RunFailedError
from storage.files.stores import open_store
from storage.records.events import read_events
from storage.records.run_lock import take_run

BOTH = ("generate", "train")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "run"))


def is_taken_over(store, *, then):
    take_run(store, job="the younger", roles=BOTH)
    then()


def fail():
    raise RunFailedError("all generators were lost")


@pytest.mark.slow
def test_an_elder_that_waits_is_interrupted_and_says_who_took_over(store):
    started_s = time.monotonic()
    with pytest.raises(FencedError, match="the younger"), driving(store, job="elder", roles=BOTH):
        is_taken_over(store, then=lambda: threading.Event().wait(60))
    assert time.monotonic() - started_s < 30
    assert [e["event"] for e in read_events(store)] == ["run_started", "run_fenced"]


def test_who_takes_a_run_over_from_a_driver_at_work_is_told(store, capsys):
    with suppress(FencedError), driving(store, job="elder", roles=BOTH):
        assert capsys.readouterr().err == ""
        with driving(store, job="younger", roles=BOTH):
            told = capsys.readouterr().err
            assert "elder on host" in told
            assert "is at work on this run; this job takes over, that one ends" in told
    with driving(store, job="later", roles=BOTH):
        assert capsys.readouterr().err == "", "nobody was at work any more"


def test_a_failure_of_a_driver_that_was_taken_over_is_told_as_that(store):
    with pytest.raises(FencedError, match="the younger"), driving(store, job="elder", roles=BOTH):
        is_taken_over(store, then=fail)


def test_ctrl_c_and_failures_stay_what_they_are_while_the_run_is_held(store):
    for error in (KeyboardInterrupt(), RunFailedError("too much failed")):
        with pytest.raises(type(error)) as told, driving(store, job="only", roles=BOTH):
            raise error
        assert told.value is error


def test_the_signal_is_given_back_and_a_late_one_does_nothing(store):
    before = signal.getsignal(signal.SIGUSR1)
    lock = take_run(store, job="elder", roles=BOTH)
    with stopped_when_fenced(lock, look_s=0.01):
        assert signal.getsignal(signal.SIGUSR1) != before
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_store_that_fails_for_a_while_ends_no_driver(store, monkeypatch):
    lock, asked = take_run(store, job="only", roles=BOTH), []

    def fails(self):
        asked.append(1)
        raise OSError("no route")

    monkeypatch.setattr(type(lock), "successor", fails)
    with stopped_when_fenced(lock, look_s=0.01):
        while len(asked) < 3:
            time.sleep(0.01)


def test_an_elder_does_not_tell_the_state_of_a_run_that_is_no_longer_its_own(store):
    with (
        pytest.raises(FencedError),
        driving(store, job="elder", roles=BOTH) as elder,
        driving(store, job="younger", roles=BOTH),
    ):
        elder.expect_held()
    events = [e for e in read_events(store) if e.get("epoch") != 2 or e["event"] != "run_fenced"]
    assert [e["event"] for e in events][-1] == "run_started"
    assert run_state(events, has_results=False).name == "running"


def test_a_job_that_is_stopped_by_sigterm_is_noted_as_interrupted_before_it_ends(store):
    before, noted = signal.getsignal(signal.SIGTERM), []

    def is_stopped():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            noted.extend(event["event"] for event in read_events(store))

    with pytest.raises(KeyboardInterrupt), driving(store, job="self_improve", roles=BOTH):
        is_stopped()
    assert noted == ["run_started", "run_interrupted"]
    assert [event["event"] for event in read_events(store)] == noted
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_state_of_a_stopped_job_names_how_it_ended_and_the_command_that_resumes(
    store, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["jobs/self_improve.py", "--config", "a file.yaml"])
    with pytest.raises(KeyboardInterrupt), driving(store, job="self_improve", roles=BOTH):
        signal.raise_signal(signal.SIGTERM)
    state = run_state(list(read_events(store)), has_results=False)
    assert state.name == "stopped"
    assert state.reason == "self_improve was stopped by SIGTERM; the same command resumes"
    assert state.resume == "python jobs/self_improve.py --config 'a file.yaml'"


def test_the_exit_that_ray_makes_of_sigterm_is_an_interruption_too(store):
    with pytest.raises(SystemExit), driving(store, job="self_improve", roles=BOTH):
        sys.exit(signal.SIGTERM)
    assert run_state(list(read_events(store)), has_results=False).name == "stopped"
