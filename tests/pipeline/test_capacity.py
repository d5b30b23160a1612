"""What is leased next, and when a run stops."""

from __future__ import annotations

import pytest

from pipeline.capacity import (
    Pace,
    PlanState,
    UnitOutcome,
    choose_next_unit,
    lease_capacity,
    pace_of,
    should_stop,
)
from pipeline.plan import make_plan
from tests.pipeline.test_plan import SHARDS, make_config

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


def test_without_weights_generation_is_starved():
    decision = choose_next_unit(PlanState(remaining=plan_of()), PACE)
    assert decision.kind == "starved"
    assert "no creation weights" in decision.reason


def test_units_are_leased_in_the_order_of_the_plan():
    plan = plan_of()
    decision = choose_next_unit(PlanState(remaining=plan, newest_version=0), PACE)
    assert decision.kind == "lease"
    assert decision.unit == plan[0]


def test_a_relabel_unit_waits_for_its_parent():
    relabel = [u for u in plan_of() if u.kind == "relabel"]
    state = PlanState(remaining=relabel, newest_version=7, num_leased=1)
    assert choose_next_unit(state, PACE).kind == "waiting"


def test_a_relabel_unit_waits_for_newer_weights_than_labelled_its_images():
    relabel = [u for u in plan_of() if u.round == 1]
    labels = {u.parent_unit_id: (0, 3) for u in relabel}
    same = PlanState(remaining=relabel, newest_labels=labels, newest_version=3)
    newer = PlanState(remaining=relabel, newest_labels=labels, newest_version=4)
    assert choose_next_unit(same, PACE).kind == "starved"
    assert choose_next_unit(newer, PACE).unit == relabel[0]


def test_a_relabel_unit_waits_for_the_round_before_it():
    plan = plan_of()
    second = [u for u in plan if u.round == 2]
    labels = {u.parent_unit_id: (0, 0) for u in second}
    state = PlanState(remaining=second, newest_labels=labels, newest_version=5)
    assert choose_next_unit(state, PACE).kind == "starved"
    labels = {u.parent_unit_id: (1, 4) for u in second}
    state = PlanState(remaining=second, newest_labels=labels, newest_version=5)
    assert choose_next_unit(state, PACE).unit == second[0]


def test_generation_that_ran_ahead_pauses_until_training_follows():
    plan = plan_of(images="fresh")
    pace = Pace(max_lead=0, samples_per_round=12, images_per_round=50)
    ahead = PlanState(remaining=plan, newest_version=0, committed_samples=12)
    assert choose_next_unit(ahead, pace).kind == "starved"
    assert "max_lead" in choose_next_unit(ahead, pace).reason
    trained = PlanState(remaining=plan, newest_version=1, committed_samples=12, seen_images=50)
    assert choose_next_unit(trained, pace).kind == "lease"


def test_finished_failed_starved_and_waiting_are_told_apart():
    plan = plan_of(rounds=1)
    assert choose_next_unit(PlanState(remaining=[], newest_version=0), PACE).kind == "finished"
    assert choose_next_unit(PlanState(remaining=[], num_leased=1), PACE).kind == "waiting"
    assert choose_next_unit(PlanState(remaining=plan), PACE).kind == "starved"
    failed = PlanState(remaining=plan, newest_version=0, stop_reason="too much failed")
    assert choose_next_unit(failed, PACE).kind == "failed"


def test_with_final_weights_the_lead_does_not_matter_and_what_needs_newer_ones_is_left_out():
    plan = plan_of()
    pace = Pace(max_lead=0, samples_per_round=12, images_per_round=50)
    state = PlanState(remaining=plan, newest_version=0, committed_samples=99, weights_final=True)
    assert choose_next_unit(state, pace).kind == "lease"
    relabel = [u for u in plan if u.round == 1]
    state = PlanState(
        remaining=relabel,
        newest_labels={u.parent_unit_id: (0, 0) for u in relabel},
        newest_version=0,
        weights_final=True,
    )
    decision = choose_next_unit(state, pace)
    assert decision.kind == "finished"
    assert "left out" in decision.reason


def outcomes(*failed, errors="decode_failed"):
    return [UnitOutcome(num_samples=10, errors={errors: n} if n else {}) for n in failed]


def test_a_run_that_mostly_fails_stops_and_names_the_errors():
    window = [*outcomes(10, 9), *outcomes(8, errors="not_finite")]
    reason = should_stop(window, max_failed_fraction=0.5, window_units=3)
    assert reason is not None
    assert "27 of 30" in reason
    assert "decode_failed (19), not_finite (8)" in reason


def test_a_run_that_fails_within_its_limit_goes_on():
    assert should_stop(outcomes(5, 5, 5), max_failed_fraction=0.5, window_units=3) is None


def test_nothing_is_judged_before_the_window_is_full():
    assert should_stop(outcomes(10, 10), max_failed_fraction=0.5, window_units=3) is None
