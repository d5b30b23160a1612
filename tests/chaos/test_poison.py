"""Samples that break the model, kill its process or make it hang: each costs only itself."""

from __future__ import annotations

import pytest

from tests.chaos.cluster import (
    WAIT_S,
    expect_planned_is_committed,
    running_cluster,
)
from tests.chaos.faults import Faults
from tests.pipeline.small_run import make_config, prepare

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

POISON = "train-000000-02"


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
