"""Two drivers on one run: the elder finds out, changes nothing more, and says who took over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.kit.faults.submitted import committed, expect_verified, submissions
from tests.kit.job_process import ROOT
from tests.kit.small_loop import write_generation, write_training
from tests.kit.wholeness import expect_whole

# Several starts of Ray processes, one after the other: a third of this on a machine that is idle.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster():
    with submissions() as made:
        yield made


def status_of(run):
    done = subprocess.run(
        [sys.executable, "jobs/status.py", str(run), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def expect_fenced(ended, *, by):
    assert ended.code == 1, ended.output
    assert "Traceback" not in ended.output
    assert re.search(rf"failed: .*younger driver .*pid {by}, since 2", ended.output), ended.output
    assert ended.survivors == []


def test_the_elder_ends_with_its_generators_and_the_younger_makes_the_other_units(
    tmp_path, cluster
):
    arguments, plan = write_generation(tmp_path)
    run = tmp_path / "run"
    with ExitStack() as stack:
        # Both start at once, so that neither is done before the other has come.
        jobs = [
            stack.enter_context(cluster.running("generate", arguments, log=tmp_path / name))
            for name in ("1.log", "2.log")
        ]
        for epoch in (1, 2):
            jobs[0].wait_until((run / f"lock/epoch-{epoch:08d}.json").exists, f"epoch {epoch}")
        first = json.loads((run / "lock/epoch-00000001.json").read_text())["pid"]
        elder, younger = sorted(jobs, key=lambda job: job.pid != first)
        expect_fenced(elder.wait(), by=younger.pid)
        (driver,) = status_of(run)["drivers"]
        assert (driver["epoch"], driver["pid"]) == (2, younger.pid)
        ended = younger.wait()
    assert ended.code == 0, ended.output
    expect_whole(str(run), plan)
    expect_verified(str(run))
    assert status_of(run)["state"]["reason"] == "generate has ended"


def test_an_elder_that_was_asleep_changes_nothing_when_it_wakes_up(tmp_path, cluster):
    """Its trainer is awake all the time, and works for nobody."""
    arguments, plan = write_training(tmp_path)
    run = tmp_path / "run"
    with ExitStack() as stack:
        start = cluster.running("train", arguments, log=tmp_path / "elder.log")
        elder = stack.enter_context(start)
        elder.wait_until(lambda: list(run.glob("weights/v00000001/manifest.json")), "version 1")
        os.kill(elder.pid, signal.SIGSTOP)
        start = cluster.running("train", arguments, log=tmp_path / "younger.log")
        younger = stack.enter_context(start)
        ended = younger.wait()
        assert ended.code == 0, ended.output
        before = committed(run)
        os.kill(elder.pid, signal.SIGCONT)
        expect_fenced(elder.wait(), by=younger.pid)
    assert committed(run) == before
    expect_whole(str(run), plan)
    expect_verified(str(run))
