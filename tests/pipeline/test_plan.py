"""The plan is a pure function of configuration and source."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.loop.plan import MeasuredCost, make_plan, plan_summary
from schemas.errors import SourceError
from schemas.sample import SourceShard
from schemas.unit import Unit
from tests.kit.small_plan import SHARDS, make_config


def test_equal_arguments_give_equal_plans_and_ids():
    first, second = make_plan(make_config(), SHARDS), make_plan(make_config(), SHARDS)
    assert first == second
    assert [u.unit_id for u in first] == [u.unit_id for u in second]
    assert len({u.unit_id for u in first}) == len(first)


def test_an_id_does_not_change_between_releases():
    unit = Unit(
        round=0,
        kind="synthesize",
        source_shard="a",
        keys=("a0",),
        variants=1,
        seed=0,
        recipe_hash="0" * 16,
    )
    assert unit.unit_id == "a2caf5f48b2721c1"


def test_every_key_is_in_exactly_one_unit_of_each_round():
    plan = make_plan(make_config(), SHARDS)
    for round_index in range(3):
        keys = [(u.source_shard, key) for u in plan if u.round == round_index for key in u.keys]
        assert sorted(keys) == sorted((s.name, key) for s in SHARDS for key in s.keys)


def test_no_unit_crosses_a_shard_or_exceeds_the_unit_size():
    for unit in make_plan(make_config(), SHARDS):
        assert len(unit.keys) <= 2
        assert all(key.startswith(unit.source_shard) for key in unit.keys)


def test_reuse_labels_the_images_of_round_0_again():
    plan = make_plan(make_config(images="reuse"), SHARDS)
    makers = [u.unit_id for u in plan if u.round == 0]
    assert {u.kind for u in plan if u.round == 0} == {"synthesize"}
    for round_index in (1, 2):
        later = [u for u in plan if u.round == round_index]
        assert {u.kind for u in later} == {"relabel"}
        assert [u.parent_unit_id for u in later] == makers


def test_fresh_makes_new_images_under_another_seed_each_round():
    plan = make_plan(make_config(images="fresh"), SHARDS)
    assert {u.kind for u in plan} == {"synthesize"}
    assert len({u.seed for u in plan}) == 3


def test_the_run_seed_changes_all_ids():
    run = make_config().run.model_copy(update={"seed": 1})
    other = make_config().model_copy(update={"run": run})
    ids = {u.unit_id for u in make_plan(make_config(), SHARDS)}
    assert ids.isdisjoint(u.unit_id for u in make_plan(other, SHARDS))


def test_a_longer_plan_starts_with_the_shorter_one():
    short, long = make_plan(make_config(rounds=1), SHARDS), make_plan(make_config(rounds=4), SHARDS)
    assert long[: len(short)] == short


def test_two_shards_of_one_name_are_refused():
    with pytest.raises(SourceError, match="more than once"):
        make_plan(make_config(), (SHARDS[0], dataclasses.replace(SHARDS[1], name="a")))


def test_an_empty_source_is_refused():
    with pytest.raises(SourceError, match="num_labelled"):
        make_plan(make_config(), (SourceShard(name="a", uri="a.tar", keys=()),))


def test_the_summary_adds_up():
    config = make_config()
    plan = make_plan(config, SHARDS)
    summary = plan_summary(config, plan, image_size=(64, 64), committed=[plan[0].unit_id, "other"])
    assert summary.num_units == len(plan) == 12
    assert summary.num_images == 12
    assert summary.num_samples == 36
    assert summary.num_committed == 1
    assert summary.bytes_estimate > 36 * 3 * 1024
    assert "not known" in summary.lines()[-1]


def test_the_summary_tells_time_from_what_units_have_cost():
    config = make_config()
    plan = make_plan(config, SHARDS)
    cost = MeasuredCost(seconds_per_image=2.0, seconds_per_label=0.5, bytes_per_sample=100.0)
    summary = plan_summary(config, plan, committed=[plan[0].unit_id], cost=cost)
    assert summary.seconds_left == pytest.approx((12 - 4) * 2.0 + 24 * 0.5)
    assert summary.bytes_estimate == 3600
