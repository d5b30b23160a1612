"""A store that does not answer for longer than a request is repeated, while generators work."""

from __future__ import annotations

import uuid

import pytest

from pipeline.on_ray.coordinator import GenerationLoop
from storage.files import patience
from storage.files.patience import Patience
from tests.kit.faults.cluster import (
    WAIT_S,
    expect_planned_is_committed,
    running_cluster,
    wait_until,
)
from tests.kit.small_run import make_config, prepare

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

OUTAGE = {"rate": 1.0, "kinds": ["slow_down", "internal_error", "reset_before"]}


@pytest.fixture(scope="module")
def cluster(s3_process):
    # After the server: nodes inherit the address from this process.
    with running_cluster(num_nodes=1) as made:
        yield made


@pytest.mark.usefixtures("cluster")
def test_generation_waits_for_the_store_and_goes_on(tmp_path, s3, monkeypatch):
    url = f"{s3.url}/{uuid.uuid4().hex}"
    config = make_config(tmp_path, run={"url": url}, plan={"unit_size": 1})
    prepare(config)
    monkeypatch.setattr(patience, "PATIENCE", Patience(tries=1))
    loop = GenerationLoop(config)
    try:
        loop.start(num_generators=1)
        wait_until(lambda: loop.gauges()["units_committed"], "the first unit", loop)
        s3.inject(**OUTAGE)
        wait_until(lambda: "does not answer" in loop.reason, "the loop notices", loop)
        assert loop.state == "waiting"
        s3.heal()
        assert loop.join(WAIT_S) == "finished"
    finally:
        loop.stop(timeout_s=0)
    assert s3.injected().total() > 0
    rows = expect_planned_is_committed(config)
    assert {row["status"] for row in rows} == {"ok"}
