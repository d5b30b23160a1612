"""One rule tells the failures of single samples from those of a stage."""

import pytest

from schemas.systematic import FailureTally, systematic_reason


@pytest.mark.parametrize(
    ("failed", "tried", "total", "reason"),
    [
        ({"TypeError": 16}, 16, 1000, "TypeError"),
        ({"TypeError": 15}, 16, 1000, "TypeError"),
        ({"TypeError": 14}, 16, 1000, None),
        ({"TypeError": 15}, 15, 1000, None),
        ({"TypeError": 4}, 4, 4, "TypeError"),
        ({"TypeError": 3}, 4, 4, None),
        ({"TypeError": 8, "ValueError": 8}, 16, 1000, None),
        ({"TypeError": 1, "ValueError": 19}, 20, 1000, "ValueError"),
        ({}, 100, 100, None),
    ],
)
def test_a_stage_fails_when_nearly_all_of_enough_samples_fail_for_one_reason(
    failed, tried, total, reason
):
    assert systematic_reason(failed, tried=tried, total=total) == reason


def test_a_tally_says_how_many_fail_why_and_what_the_first_said():
    tally = FailureTally(total=100)
    tally.add()
    for number in range(15):
        assert tally.systematic() == ""
        tally.add("TypeError", f"unexpected keyword {number}")
    assert tally.systematic() == "15 of 16 fail the same way, TypeError: unexpected keyword 0"
