"""The learning rate over a stage."""

import itertools

import pytest

from schemas.config_training import StageSection
from trainers.settings import learning_rate


def rates(**options):
    section = StageSection(steps=20, learning_rate=2.0, **options)
    return [learning_rate(step, section) for step in range(20)]


def test_the_rate_is_constant_by_default():
    assert rates() == [2.0] * 20


def test_warm_up_rises_linearly_to_the_peak():
    assert rates(lr_warm_up_steps=4)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_the_cosine_ends_at_the_lr_final_fraction():
    found = rates(lr_final_fraction=0.1)
    assert found[0] == 2.0
    assert found[-1] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in itertools.pairwise(found))


def test_the_cosine_is_half_way_down_in_the_middle():
    assert learning_rate(
        10, StageSection(steps=21, learning_rate=1.0, lr_final_fraction=0.0)
    ) == pytest.approx(0.5)


def test_poly_falls_by_the_power_of_the_share_of_steps_that_are_left():
    found = rates(lr_decay="poly", lr_final_fraction=0.0)
    assert found == pytest.approx([2.0 * ((19 - step) / 19) ** 0.9 for step in range(20)])
    above = rates(lr_decay="poly", lr_final_fraction=0.1, lr_warm_up_steps=5)
    assert above[:6] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert above[12] == pytest.approx(0.2 + 1.8 * 0.5**0.9)
    assert above[-1] == pytest.approx(0.2)


def test_without_a_final_fraction_the_rate_is_constant_however_it_falls():
    assert rates(lr_decay="poly") == rates(lr_decay="cosine") == [2.0] * 20


def test_a_stage_of_one_step_has_the_peak():
    assert learning_rate(0, StageSection(steps=1, learning_rate=3.0, lr_final_fraction=0.5)) == 3.0


def test_warm_up_longer_than_the_stage_never_reaches_the_peak():
    section = StageSection(steps=4, learning_rate=1.0, lr_warm_up_steps=8)
    assert max(learning_rate(step, section) for step in range(4)) == 0.5
