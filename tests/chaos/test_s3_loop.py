"""The whole loop on ``s3://`` with one request in twenty failing, killed and told to go on."""

from __future__ import annotations

import json
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs import compact, export, gc, predict, retry, status, verify
from schemas.unit import Unit
from storage.files.stores import RunStore, open_store
from storage.manifests.places import find_units
from tests.kit.job_process import Ended, environment, finish_job, ray_folder, running_job
from tests.kit.s3_server import S3Server
from tests.kit.small_loop import make_loop_config, write_loop
from tests.kit.wholeness import expect_whole

# One of these is two whole runs, one after the other, with waits for a store that fails.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

RATE = 0.05


@dataclass(frozen=True)
class FaultyRun:
    """A run that came to its end, and what was done to it.

    Attributes:
        store: The run.
        plan: Its units.
        ended: The last process.
        requests: How often the store was asked.
        faults: How often it failed, by kind.
        killed: Units that were committed when a driver was killed; None if none was.
    """

    store: RunStore
    plan: tuple[Unit, ...]
    ended: Ended
    requests: int
    faults: dict[str, int]
    killed: set[str] | None = None


def begin(s3: S3Server, folder: Path, name: str) -> tuple[list[str], tuple[Unit, ...], RunStore]:
    """Put a source into the bucket; returns the job's arguments, the plan, and the run."""
    make_loop_config(folder)
    bucket = open_store(f"{s3.url}/{name}")
    for file in sorted((folder / "source").iterdir()):
        bucket.put_file(file, f"source/{file.name}")
    changes: dict[str, dict[str, Any]] = {
        "run": {"url": f"{bucket.url}/run"},
        "source": {"root": f"{bucket.url}/source"},
        "training": {
            "warm_up": {"steps": 6, "batch_size": 4},
            "self_improve": {"steps": 12, "batch_size": 4},
        },
    }
    arguments, plan = write_loop(folder, **changes)
    return arguments, plan, open_store(f"{bucket.url}/run")


@pytest.fixture(scope="module")
def finished(s3_process: S3Server, tmp_path_factory: pytest.TempPathFactory) -> FaultyRun:
    """A run under faults from its first request to its last."""
    s3, folder = s3_process, tmp_path_factory.mktemp("s3_loop")
    arguments, plan, store = begin(s3, folder, "finished")
    s3.forget()
    s3.inject(rate=RATE, seed=random.randrange(10**6), slow_s=1.0)
    with ray_folder() as ray:
        ended = finish_job(
            "self_improve", arguments, log=folder / "log", environment=environment(ray)
        )
    log, faults = s3.log(), s3.injected()
    s3.heal()
    return FaultyRun(store, plan, ended, len(log), dict(faults))


def expect_ended(run: FaultyRun) -> None:
    print(run.requests, run.faults)  # noqa: T201 - shown with a failed test
    assert run.ended.code == 0, run.ended.output
    assert run.ended.survivors == []
    assert sum(run.faults.values()) > 0.02 * run.requests
    assert len(run.faults) >= 4
    rows = expect_whole(run.store.url, run.plan)
    assert {row["status"] for row in rows} == {"ok"}


def test_the_whole_loop_ends_well_while_one_request_in_twenty_fails(finished):
    expect_ended(finished)


def test_every_command_works_on_such_a_run_under_faults(finished, s3, tmp_path, capsys):
    url, out = finished.store.url, f"{s3.url}/exported"
    photo = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((40, 32)).convert("RGB").save(photo)
    s3.inject(rate=RATE, seed=random.randrange(10**6), slow_s=0.5)
    verify.main([url])
    status.main([url, "--json"])
    retry.main([url, "--dry-run"])
    gc.main([url, "--older-than", "0s", "--stopped"])
    gc.main([url, "--older-than", "0s", "--stopped", "--delete"])
    compact.main([url, "--all"])
    verify.main([url])
    predict.main(["--run", url, str(photo), "--out", f"{s3.url}/predicted"])
    export.main(["--run", url, "--out", out, "--with-backbone"])
    assert s3.injected().total() > 0
    s3.heal()
    printed = capsys.readouterr().out
    assert '"state": "finished"' in printed
    assert json.loads(open_store(f"{s3.url}/predicted").read_bytes("predictions.json"))
    assert open_store(out).list_dir("weights")
    expect_whole(url, finished.plan)


def test_a_driver_killed_under_faults_is_followed_by_one_that_ends_the_run(s3, tmp_path):
    arguments, plan, store = begin(s3, tmp_path, "killed")
    s3.forget()
    s3.inject(rate=RATE, seed=random.randrange(10**6), slow_s=1.0)
    with ray_folder() as ray:
        how = {"environment": environment(ray)}
        with running_job("self_improve", arguments, log=tmp_path / "1.log", **how) as job:
            job.wait_until(lambda: find_units(store), "the first unit")
            killed = job.signal(signal.SIGKILL)
        assert killed.code == -signal.SIGKILL
        before = {place.unit_id for place in find_units(store)}
        ended = finish_job("self_improve", arguments, log=tmp_path / "2.log", **how)
    log, faults = s3.log(), s3.injected()
    s3.heal()
    run = FaultyRun(store, plan, ended, len(log), dict(faults), before)
    assert before < {unit.unit_id for unit in plan}
    expect_ended(run)
    verify.main([store.url])
