"""What a driver and a trainer do for a unit does not grow with the run; counted, not timed."""

from __future__ import annotations

import pytest

from pipeline.loop.control import GenerationControl
from schemas.run_layout import COMPACTED_DIR, UNITS_DIR
from sources.live_shards import LiveShardList
from storage.files.stores import open_store
from storage.manifests.compaction import Compactor
from tests.kit.committed_units import publish
from tests.kit.manifests import CountingFolders
from tests.kit.simulated_run import commit_simulated, make_config, plan_of

UNITS_PER_LOOK = 10


def names_of_units(store: CountingFolders) -> int:
    return sum(count for folder, count in store.names.items() if folder.startswith(f"{UNITS_DIR}/"))


def counts_of_a_run(url: str, *, rounds: int, units_per_round: int) -> dict[str, float]:
    """Run a plan on one simulated generator.

    Returns:
        What was asked of storage in the second half of it.
    """
    config = make_config(url, rounds=rounds)
    plan, store = plan_of(config, rounds * units_per_round), open_store(url)
    driver, trainer = CountingFolders(store), CountingFolders(store)
    publish(store, 0, seen_images=0)
    control = GenerationControl(config, driver, plan)
    live = LiveShardList(trainer, poll_s=0.0)
    compactor = Compactor(store, last_round=rounds - 1, units_per_file=16, grace_s=0.0)
    version = 0
    while (decision := control.decide()).kind != "finished":
        if decision.unit is None:
            version += 1
            publish(store, version, seen_images=10**6 * version)
            control.refresh()
            continue
        unit, attempt = decision.unit, control.lease(decision.unit)
        outcome = commit_simulated(store, config, unit, attempt, version=version)
        control.settle(unit, attempt, outcome=outcome)
        if control.progress()["units_committed"] % UNITS_PER_LOOK == 0:
            assert control.refresh() == [], "what was told is not found again"
            assert live.refresh() == UNITS_PER_LOOK
            compactor.turn()
        if control.progress()["units_committed"] == len(plan) // 2:
            for counting in (driver, trainer):
                counting.names.clear()
                counting.reads.clear()
    assert live.num_units == units_per_round
    expect_same_as_a_new_driver(config, store, plan, control)
    units = len(plan) / 2
    looks = units / UNITS_PER_LOOK
    return {
        "names of a driver's look": names_of_units(driver) / looks,
        "names of a trainer's look": names_of_units(trainer) / looks,
        "manifests that the driver read": sum(n for p, n in driver.reads.items() if UNITS_DIR in p),
        "reads of the driver": driver.reads.total() / units,
        "reads of the trainer": trainer.reads.total() / units,
    }


def expect_same_as_a_new_driver(config, store, plan, control) -> None:
    """What results told must be what a driver that starts now reads from storage."""
    found, known = GenerationControl(config, store, plan).progress(), control.progress()
    assert found == known
    assert found["units_committed"] == len(plan)


@pytest.mark.slow
def test_a_run_of_three_times_as_many_rounds_asks_no_more_of_storage_for_a_unit() -> None:
    short = counts_of_a_run("memory://scale-short", rounds=4, units_per_round=20)
    long = counts_of_a_run("memory://scale-long", rounds=12, units_per_round=20)
    assert short.pop("manifests that the driver read") == 0
    assert long.pop("manifests that the driver read") == 0
    for name, count in short.items():
        assert long[name] <= 1.1 * count, name
    assert len(open_store("memory://scale-long").list_dir(COMPACTED_DIR)) == 240 // 16
