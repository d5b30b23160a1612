"""Every state of a run is told apart, and a failed run never exits 0."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import pytest

from jobs.status import main as show_status
from jobs.steer import main as steer
from pipeline.loop.capacity import should_stop
from runs.command_line import run_job
from runs.driving import logged
from runs.state import SILENT_AFTER_S, run_state
from runs.status import read_status
from schemas.errors import ConfigError, DamagedShardError, NotFiniteError, RunFailedError
from schemas.run_layout import CONFIG_FILE, STEERING_FILE
from storage.files.stores import open_store
from storage.records.events import EventWriter, read_events
from storage.records.steering import Steering, read_steering
from tests.kit.committed_units import outcome

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def event(name, *, ago_s=1.0, **fields):
    return {"event": name, "time": (NOW - timedelta(seconds=ago_s)).isoformat(), **fields}


def generation(state, **fields):
    return event("generation_progress", state=state, **fields)


def name_of(*events, has_results=False):
    return run_state(events, has_results=has_results, now=NOW).name


STARTED = event("run_started", ago_s=60)
TRAINING = event("trainer_progress", ago_s=2)
RELABEL = "newer creation weights than version 0 are needed to relabel"
WAITING_FOR_SAMPLES = event("starved", found=3, wanted=16, waited_s=12.0)


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ((), "not_started"),
        ((STARTED,), "running"),
        ((STARTED, TRAINING), "running"),
        ((STARTED, TRAINING, generation("lease")), "running"),
        ((STARTED, TRAINING, generation("waiting")), "running"),
        ((STARTED, TRAINING, generation("starved", reason="ahead")), "starved"),
        ((STARTED, TRAINING, generation("starved", reason=RELABEL)), "waiting_for_weights"),
        ((STARTED, generation("waiting"), WAITING_FOR_SAMPLES), "starved"),
        ((STARTED, generation("lease"), WAITING_FOR_SAMPLES, TRAINING), "running"),
        ((STARTED, generation("paused")), "paused"),
        ((STARTED, generation("draining", generators_draining=2)), "draining"),
        ((STARTED, generation("failed", reason="too much")), "failed"),
        ((STARTED, event("run_failed", reason="x")), "failed"),
        ((STARTED, event("run_interrupted")), "stopped"),
        ((STARTED, event("run_ended", job="train")), "stopped"),
        ((event("run_failed", ago_s=90), STARTED, TRAINING), "running"),
        ((STARTED, generation("failed"), event("run_started"), TRAINING), "running"),
        ((event("run_started", ago_s=SILENT_AFTER_S + 1),), "silent"),
        ((event("run_failed", ago_s=1e6, reason="x"),), "failed"),
    ],
)
def test_states_are_told_apart(events, wanted):
    assert name_of(*events) == wanted


def of(epoch, *roles, name="run_started", **fields):
    return event(name, epoch=epoch, **({"roles": list(roles)} if roles else {}), **fields)


BOTH = ("generate", "train")


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        # What the elder tells after the younger has started is not the run's state.
        ((of(1, *BOTH), of(1, name="run_failed"), of(2, *BOTH)), "running"),
        ((of(1, *BOTH), generation("failed", epoch=1), of(2, *BOTH)), "running"),
        (
            (of(1, *BOTH), of(1, name="run_fenced"), of(2, *BOTH), of(2, name="run_ended")),
            "stopped",
        ),
        # Two jobs side by side: both count until each has ended.
        ((of(1, "generate"), of(2, "train"), of(2, name="run_ended", job="train")), "running"),
        ((of(1, "generate"), of(1, name="run_failed"), of(2, "train")), "failed"),
        ((of(1, "generate"), generation("paused", epoch=1), of(2, "train")), "paused"),
        (
            (
                of(1, "generate"),
                of(1, name="run_ended"),
                of(2, "train"),
                of(2, name="run_ended"),
            ),
            "stopped",
        ),
    ],
)
def test_the_state_is_what_the_drivers_tell_that_hold_the_run(events, wanted):
    assert name_of(*events) == wanted


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_driver_whose_clock_is_wrong_is_silent_only_when_it_is(hours):
    told = (event("run_started", ago_s=3600 * hours),)
    for silence_s, wanted in ((10, "running"), (SILENT_AFTER_S + 10, "silent")):
        heard_at = NOW - timedelta(seconds=silence_s)
        state = run_state(told, has_results=False, now=NOW, heard_at=heard_at)
        assert state.name == wanted


def test_results_end_a_run_whatever_came_before():
    assert name_of(STARTED, event("run_failed"), has_results=True) == "finished"


def test_a_starved_run_says_which_side_waits():
    trainer = run_state((STARTED, WAITING_FOR_SAMPLES), has_results=False, now=NOW)
    assert trainer.reason == "training waits for synthetic samples: 3 of 16 after 12 s"
    state = run_state((STARTED, generation("starved", reason="ahead")), has_results=False, now=NOW)
    assert state.reason == "generators wait: ahead"


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path))
    store.write_bytes(CONFIG_FILE, b"run: {}")
    return store


@pytest.mark.parametrize(
    ("error", "event_name", "state"),
    [
        (RunFailedError("too much failed"), "run_failed", "failed"),
        (ConfigError("no model"), "run_failed", "failed"),
        (KeyError("a defect"), "run_failed", "failed"),
        (KeyboardInterrupt(), "run_interrupted", "stopped"),
    ],
)
def test_how_a_driver_ends_is_in_the_log(store, error, event_name, state):
    with pytest.raises(type(error)), logged(store, job="self_improve"):
        raise error
    assert [e["event"] for e in read_events(store)] == ["run_started", event_name]
    assert read_status(store)["state"]["name"] == state


def test_status_shows_state_and_reason(store, capsys):
    with pytest.raises(RunFailedError), logged(store, job="self_improve"):
        raise RunFailedError("9 of 10 samples failed: out_of_memory (9)")
    show_status([store.url])
    assert "failed · 9 of 10 samples failed" in capsys.readouterr().out


def test_status_names_the_command_that_resumes_on_one_line(store, capsys, monkeypatch):
    argv = [
        "jobs/self_improve.py",
        "--config",
        "configs/rooms_demo.yaml",
        "--set",
        "a.b=" + "x" * 90,
    ]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(KeyboardInterrupt), logged(store, job="self_improve"):
        raise KeyboardInterrupt
    show_status([store.url])
    assert f"resume with: python {' '.join(argv)}\n" in capsys.readouterr().out


def test_status_shows_generators_and_publish_lag(store, capsys):
    events = EventWriter(store, "any")
    events.emit("run_started")
    events.emit(
        "trainer_progress",
        stage="self_improve",
        steps=10,
        images_per_s=1.0,
        staleness_mean=0.0,
        publish_lag=7,
    )
    events.emit("generation_progress", state="paused", generators=4, generators_ready=3)
    events.flush()
    show_status([store.url])
    shown = capsys.readouterr().out
    assert "7 steps" in shown
    assert "3 / 4" in shown
    assert "paused" in shown


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunFailedError("x"), 1),
        (DamagedShardError("x"), 1),
        (NotFiniteError("x"), 1),
        (OSError("storage is away"), 1),
        (ConfigError("x"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error, code, monkeypatch, capsys):
    def job(arguments):
        raise error

    monkeypatch.setattr(sys, "argv", ["job"])
    with pytest.raises(SystemExit) as ended:
        run_job(job)
    assert ended.value.code == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_is_no_success_either(monkeypatch):
    def job(arguments):
        raise KeyError("a defect")

    monkeypatch.setattr(sys, "argv", ["job"])
    with pytest.raises(KeyError):
        run_job(job)


def test_the_circuit_breaker_names_the_most_frequent_errors():
    window = [
        outcome(8, {"OutOfMemoryError": 3, "decode_failed": 2}),
        outcome(8, {"OutOfMemoryError": 4, "a": 1, "b": 1}),
    ]
    reason = should_stop(window, max_failed_fraction=0.5, window_units=2)
    assert "11 of 16 samples" in reason
    assert "OutOfMemoryError (7), decode_failed (2)" in reason


def test_wishes_are_kept_beside_each_other(store):
    assert read_steering(store) == Steering()
    steer([store.url, "--generators", "6"])
    steer([store.url, "--pause"])
    assert read_steering(store) == Steering(num_generators=6, is_paused=True)
    steer([store.url, "--resume"])
    assert read_steering(store) == Steering(num_generators=6, is_paused=False)


@pytest.mark.parametrize("text", ["", "[]", '{"num_generators": 0}', '{"is_paused": 1}', "{"])
def test_wishes_that_are_none_are_an_error(store, text):
    store.write_bytes(STEERING_FILE, text.encode())
    with pytest.raises(ConfigError, match=r"steering\.json"):
        read_steering(store)


def test_steering_needs_a_run_and_a_positive_number(store, tmp_path):
    with pytest.raises(ConfigError, match="no run"):
        steer([str(tmp_path / "elsewhere"), "--pause"])
    with pytest.raises(ConfigError, match="wanted 1 to"):
        steer([store.url, "--generators", "0"])
