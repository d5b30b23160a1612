"""Twenty kills in one run; each of these takes many minutes and runs alone."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.kit.faults.soak import LATEST_S, STEPS, soak_driver, soak_parts

pytestmark = [pytest.mark.chaos, pytest.mark.soak, pytest.mark.timeout(7200)]

KILLS = 20


def expect_ended_well(soak, seed):
    Console().print(soak.table(seed))
    assert len(soak.kills) == KILLS, "the run ended before; raise the steps"
    soak.expect_whole()


@pytest.mark.parametrize("seed", [0])
def test_a_run_whose_driver_is_killed_twenty_times_ends_as_if_it_never_was(tmp_path, seed):
    soak = soak_driver(
        tmp_path, kills=KILLS, seed=seed, latest_s=LATEST_S["driver"], steps=STEPS["driver"]
    )
    expect_ended_well(soak, seed)


@pytest.mark.parametrize("seed", [0])
def test_a_run_of_which_twenty_parts_are_killed_ends_as_if_none_ever_was(tmp_path, seed):
    soak = soak_parts(
        tmp_path, kills=KILLS, seed=seed, latest_s=LATEST_S["parts"], steps=STEPS["parts"]
    )
    expect_ended_well(soak, seed)
