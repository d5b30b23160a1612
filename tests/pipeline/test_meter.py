"""Throughput and busy share."""

from __future__ import annotations

import pytest

from pipeline.loop.timing import Meter


def test_nothing_is_known_before_the_first_unit():
    meter = Meter()
    meter.begin("a", now_s=0.0)
    assert meter.samples_per_s(now_s=1.0) is None
    assert meter.busy_share() is None


def test_the_rate_counts_from_the_first_work():
    meter = Meter()
    meter.begin("a", now_s=10.0)
    meter.finish("a", samples=8, busy_s=4.0, now_s=14.0)
    assert meter.samples_per_s(now_s=14.0) == pytest.approx(2.0)


def test_the_rate_forgets_what_is_older_than_a_minute():
    meter = Meter()
    meter.begin("a", now_s=0.0)
    meter.finish("a", samples=600, busy_s=1.0, now_s=1.0)
    meter.finish("a", samples=60, busy_s=1.0, now_s=100.0)
    assert meter.samples_per_s(now_s=100.0) == pytest.approx(1.0)


def test_the_busy_share_is_over_all_generators_from_first_work_to_last_result():
    meter = Meter()
    meter.begin("a", now_s=0.0)
    meter.begin("b", now_s=0.0)
    meter.finish("a", samples=1, busy_s=10.0, now_s=10.0)
    meter.finish("b", samples=1, busy_s=8.0, now_s=10.0)
    meter.begin("a", now_s=10.0)
    assert meter.busy_share() == pytest.approx(0.9)
