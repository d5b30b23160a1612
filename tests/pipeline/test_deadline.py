"""A unit's deadline is learnt from the units that ended, within the limits of the configuration."""

from __future__ import annotations

import pytest

from pipeline.loop.plan import make_plan
from pipeline.loop.timing import FACTOR, MIN_MEASURED, PATIENCE, UnitDeadline
from schemas.config_operations import GenerationSection
from tests.kit.small_run import make_config, open_run_source

LEAST_S, MOST_S = 30.0, 1800.0


@pytest.fixture
def unit(tmp_path):
    config = make_config(tmp_path)
    return make_plan(config, open_run_source(config).shards("train"))[0]


@pytest.fixture
def deadline():
    return UnitDeadline(GenerationSection(min_unit_timeout_s=LEAST_S, unit_timeout_s=MOST_S))


def measured(deadline, unit, *seconds):
    for spent_s in seconds:
        own_s = deadline.note(unit, spent_s)
    return own_s


def test_until_enough_units_ended_the_longest_limit_holds(deadline, unit):
    own_s = measured(deadline, unit, *[10.0] * (MIN_MEASURED - 1))
    assert deadline.limit_s(unit, own_s=own_s) == MOST_S


def test_then_it_is_a_multiple_of_the_median(deadline, unit):
    own_s = measured(deadline, unit, 10.0, 200.0, 20.0, 8.0, 20.0) and 1.0
    assert deadline.limit_s(unit, own_s=own_s) == pytest.approx(FACTOR * 20.0)


def test_it_stays_within_its_limits(deadline, unit):
    own_s = measured(deadline, unit, *[0.1] * MIN_MEASURED)
    assert deadline.limit_s(unit, own_s=own_s) == LEAST_S
    own_s = measured(deadline, unit, *[1000.0] * 9)
    assert deadline.limit_s(unit, own_s=own_s) == MOST_S


@pytest.mark.parametrize("options", [{"own_s": None}, {"own_s": 1.0, "is_careful": True}])
def test_a_first_unit_and_a_careful_attempt_have_more_time(deadline, unit, options):
    measured(deadline, unit, *[20.0] * MIN_MEASURED)
    assert deadline.limit_s(unit, **options) == pytest.approx(FACTOR * PATIENCE * 20.0)


def test_a_slow_generator_has_the_time_that_it_takes(deadline, unit):
    measured(deadline, unit, *[20.0] * MIN_MEASURED)
    slow_s = 3 * 20.0 / unit.num_samples
    assert deadline.limit_s(unit, own_s=slow_s) == pytest.approx(3 * FACTOR * 20.0)


def test_the_shortest_limit_never_exceeds_the_longest(unit):
    deadline = UnitDeadline(GenerationSection(min_unit_timeout_s=120.0, unit_timeout_s=5.0))
    measured(deadline, unit, *[0.1] * MIN_MEASURED)
    assert deadline.limit_s(unit) == 5.0
