"""Drivers, trainers and generators whose clocks are hours apart."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from storage.files.stores import open_store
from storage.records.events import read_events
from tests.kit.faults.skewed_clock import skewed_clock
from tests.kit.faults.submitted import expect_verified
from tests.kit.job_process import ROOT, environment, ray_folder, running_job
from tests.kit.small_loop import write_loop
from tests.kit.wholeness import expect_whole

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]


@pytest.mark.smoke
@pytest.mark.parametrize("hours", [1.0, -1.0])
def test_a_process_with_a_wrong_clock_has_one(tmp_path, hours):
    """The instrument itself: all ways in which the project tells the time."""
    code = (
        "from pipeline.loop.control import time\n"
        "from storage.files.inventory import datetime, UTC\n"
        "assert isinstance(datetime.fromtimestamp(0, UTC), datetime); "
        "print(time.time(), datetime.now(UTC).timestamp())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(tmp_path, **skewed_clock(tmp_path / "clock", hours=hours)),
        capture_output=True,
        text=True,
        check=True,
    )
    now_s = datetime.now(UTC).timestamp()
    assert [float(each) - now_s for each in done.stdout.split()] == [
        pytest.approx(3600 * hours, abs=60)
    ] * 2


def told(job, run, *options, how=None):
    done = subprocess.run(
        [sys.executable, f"jobs/{job}.py", str(run), *options],
        cwd=ROOT,
        env=how,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


# Two whole drivers and three commands, one after the other.
@pytest.mark.timeout(240)
def test_a_run_begun_an_hour_ahead_is_ended_an_hour_behind(tmp_path):
    """Not only the drivers: their Ray, with generators and trainers, is of their time."""
    arguments, plan = write_loop(tmp_path)
    run = tmp_path / "run"
    with ray_folder() as ray:
        ahead = environment(ray, **skewed_clock(tmp_path / "ahead", hours=1))
        with running_job(
            "self_improve", arguments, log=tmp_path / "1.log", environment=ahead
        ) as job:
            job.wait_until(lambda: list(run.glob("weights/v00000001/manifest.json")), "version 1")
            job.signal(signal.SIGKILL)
        behind = environment(ray, **skewed_clock(tmp_path / "behind", hours=-1))
        with running_job(
            "self_improve", arguments, log=tmp_path / "2.log", environment=behind
        ) as job:
            job.wait_until(lambda: list(run.glob("events/run.000001.jsonl")), "the second driver")
            state = json.loads(told("status", run, "--json"))["state"]
            ended = job.wait()
    assert state["name"] == "running", state
    assert ended.code == 0, ended.output
    expect_whole(str(run), plan)
    expect_verified(str(run))

    events = list(read_events(open_store(str(run))))
    epochs = [event["epoch"] for event in events]
    assert epochs == sorted(epochs)
    assert set(epochs) == {1, 2}
    assert events[0]["time"] > events[-1]["time"], "the clocks were not wrong"
    assert (events[0]["event"], events[-1]["event"]) == ("run_started", "run_ended")
    # Nothing is older than an hour by the store's clock, whatever the clock of gc's machine.
    before = {path for path in run.rglob("*") if path.is_file()}
    two_days_ahead = environment(tmp_path, **skewed_clock(tmp_path / "gc", hours=48))
    told("gc", run, "--older-than", "1h", "--keep-versions", "1", "--delete", how=two_days_ahead)
    assert {path for path in run.rglob("*") if path.is_file()} == before
