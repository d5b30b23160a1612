"""What a stage tells, and how often."""

import pytest

from sources.batches import collate
from tests.kit.clock import Clock
from tests.kit.small_stage import make_sample
from trainers.progress import Progress


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told():
    return []


@pytest.fixture
def progress(clock, told):
    return Progress("self_improve", steps=100, on_progress=told.append, clock=clock)


def make_batch(versions):
    samples = [make_sample(f"s{i}", seed=i, is_synthetic=v >= 0) for i, v in enumerate(versions)]
    return collate(samples, ("normals",), versions=versions)


def test_events_come_at_most_every_two_seconds(progress, clock, told):
    for step in range(40):
        clock.now_s = 0.5 * step
        progress.add_step(images=16, fields={"step": step})
    assert [event["step"] for event in told] == list(range(4, 40, 4))


def test_a_long_stage_tells_less_often(progress, clock, told):
    clock.now_s = 1000.0
    progress.add_step(images=16, fields={})
    for clock.now_s in (1002.0, 1009.0, 1011.0):
        progress.add_step(images=16, fields={"at_s": clock.now_s})
    assert [event.get("at_s") for event in told] == [None, 1011.0]


def test_staleness_counts_versions_behind_the_newest_over_synthetic_samples(progress, clock, told):
    progress.add_batch(make_batch([-1, -1, 0, 2]), current_version=3)
    clock.now_s = 4.0
    progress.add_step(images=8, fields={"loss": 1.0})
    (event,) = told
    assert (event["staleness_mean"], event["staleness_max"]) == (2.0, 3)
    assert event["synthetic_fraction"] == 0.5
    assert event["images_per_s"] == 2.0
    assert (event["stage"], event["steps"], event["loss"]) == ("self_improve", 100, 1.0)


def test_the_last_event_keeps_the_rates_of_the_steps_before(progress, clock, told):
    clock.now_s = 4.0
    progress.add_step(images=8, fields={})
    progress.fields["validation"] = {"normals_mean_deg": 20.0}
    progress.tell()
    assert told[-1]["images_per_s"] == 2.0
    assert told[-1]["validation"] == {"normals_mean_deg": 20.0}
