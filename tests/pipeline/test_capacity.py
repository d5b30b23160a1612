"""What is leased next, and when a run stops."""

from __future__ import annotations

import pytest

from pipeline.loop.capacity import (
    Pace,
    PlanState,
    choose_next_unit,
    lease_capacity,
    pace_of,
    should_stop,
)
from pipeline.loop.plan import make_plan
from tests.kit.committed_units import outcome
from tests.kit.small_plan import SHARDS, make_config

PACE = Pace(max_lead=1, samples_per_round=100, images_per_round=1000)


def capacity(rounds_trained=0, committed=0, leased=0, pace=PACE):
    return lease_capacity(
        pace, rounds_trained=rounds_trained, committed_samples=committed, leased_samples=leased
    )


def plan_of(**options):
    return make_plan(make_config(**options), SHARDS)


@pytest.mark.parametrize(
    ("rounds_trained", "committed", "leased", "wanted"),
    [(0, 0, 0, 200), (0, 100, 60, 40), (0, 200, 0, 0), (1, 200, 0, 100), (2, 500, 0, -100)],
)
def test_capacity_is_the_allowed_rounds_less_what_is_made_or_in_the_making(
    rounds_trained, committed, leased, wanted
):
    assert capacity(rounds_trained, committed, leased) == wanted


def test_a_resumed_run_is_not_stuck_because_its_training_is_counted_too():
    # AReaL issue 1345: samples were restored on resume, trained rounds were not, and the
    # capacity stayed below zero for ever.
    assert capacity(rounds_trained=0, committed=500) < 0
    assert capacity(rounds_trained=5, committed=500) == capacity(rounds_trained=0, committed=0)


def test_no_lead_lets_exactly_one_round_be_made_before_training_has_done_one():
    pace = Pace(max_lead=0, samples_per_round=100, images_per_round=1000)
    assert capacity(pace=pace) == 100
    assert capacity(committed=100, pace=pace) == 0
    assert capacity(rounds_trained=1, committed=100, pace=pace) == 100


def test_the_pace_follows_from_the_configuration():
    config = make_config(rounds=3, variants=2)
    pace = pace_of(config, make_plan(config, SHARDS))
    assert pace.samples_per_round == 12
    assert pace.images_per_round == -(-10 * 16 // 3)
    assert pace.max_lead == 1


def state_of(remaining, **options):
    """The state in which these units are left and the first of them is ready."""
    return PlanState(num_remaining=len(remaining), next_ready=remaining[0], **options)


def test_without_weights_generation_is_starved():
    decision = choose_next_unit(state_of(plan_of()), PACE)
    assert decision.kind == "starved"
    assert "no creation weights" in decision.reason


def test_the_first_ready_unit_is_leased():
    plan = plan_of()
    decision = choose_next_unit(state_of(plan, newest_version=0), PACE)
    assert decision.kind == "lease"
    assert decision.unit == plan[0]


def test_generation_waits_while_no_unit_is_ready_and_some_are_leased():
    state = PlanState(num_remaining=3, newest_version=7, num_leased=1)
    assert choose_next_unit(state, PACE).kind == "waiting"


def test_generation_that_needs_newer_weights_to_relabel_is_starved_and_says_so():
    decision = choose_next_unit(PlanState(num_remaining=3, newest_version=7), PACE)
    assert decision.kind == "starved"
    assert "newer creation weights than version 7" in decision.reason


def test_generation_that_ran_ahead_pauses_until_training_follows():
    plan = plan_of(images="fresh")
    pace = Pace(max_lead=0, samples_per_round=12, images_per_round=50)
    ahead = state_of(plan, newest_version=0, committed_samples=12)
    assert choose_next_unit(ahead, pace).kind == "starved"
    assert "max_lead" in choose_next_unit(ahead, pace).reason
    trained = state_of(plan, newest_version=1, committed_samples=12, seen_images=50)
    assert choose_next_unit(trained, pace).kind == "lease"


def test_finished_failed_starved_and_waiting_are_told_apart():
    plan = plan_of(rounds=1)
    ended = PlanState(num_remaining=0, newest_version=0)
    assert choose_next_unit(ended, PACE).kind == "finished"
    assert choose_next_unit(PlanState(num_remaining=0, num_leased=1), PACE).kind == "waiting"
    assert choose_next_unit(state_of(plan), PACE).kind == "starved"
    failed = state_of(plan, newest_version=0, stop_reason="too much failed")
    assert choose_next_unit(failed, PACE).kind == "failed"


def test_with_final_weights_the_lead_does_not_matter_and_what_needs_newer_ones_is_left_out():
    plan = plan_of()
    pace = Pace(max_lead=0, samples_per_round=12, images_per_round=50)
    state = state_of(plan, newest_version=0, committed_samples=99, weights_final=True)
    assert choose_next_unit(state, pace).kind == "lease"
    state = PlanState(num_remaining=4, newest_version=0, weights_final=True)
    decision = choose_next_unit(state, pace)
    assert decision.kind == "finished"
    assert "4 units left out" in decision.reason


def outcomes(*failed, errors="decode_failed"):
    return [outcome(10, {errors: n} if n else {}) for n in failed]


def test_a_run_that_mostly_fails_stops_and_names_the_errors():
    window = [*outcomes(10, 9), *outcomes(8, errors="not_finite")]
    reason = should_stop(window, max_failed_fraction=0.5, window_units=3)
    assert reason is not None
    assert "27 of 30" in reason
    assert "decode_failed (19), not_finite (8)" in reason


def test_a_run_that_fails_within_its_limit_goes_on():
    assert should_stop(outcomes(5, 5, 5), max_failed_fraction=0.5, window_units=3) is None


def test_single_failures_are_not_judged_before_the_window_is_full():
    assert should_stop(outcomes(8, 8), max_failed_fraction=0.5, window_units=3) is None
    mixed = [*outcomes(10), *outcomes(10, errors="not_finite")]
    assert should_stop(mixed, max_failed_fraction=0.5, window_units=3) is None


def test_half_a_window_is_enough_where_all_samples_fail_the_same_way():
    reason = should_stop(outcomes(10, 10, 10, 10, 10), max_failed_fraction=0.5, window_units=8)
    assert reason is not None
    assert "50 of 50 samples of the last 5 units failed" in reason
    assert should_stop(outcomes(10, 10, 10, 10), max_failed_fraction=0.5, window_units=8) is None
    assert should_stop(outcomes(10, 10), max_failed_fraction=1.0, window_units=3) is None
