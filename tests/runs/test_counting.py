"""Progress that can be counted: bars with the time left on a terminal, lines else."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from runs.counting import Pace, counted, duration
from runs.progress import RunView, view_rows
from tests.kit.clock import Clock


def console(*, is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=80)


def test_the_time_left_follows_from_what_was_done_since_the_first_look():
    clock = Clock()
    pace = Pace(clock)
    assert pace.seconds_left(10, 30) is None
    clock.now_s += 5
    assert pace.seconds_left(10, 30) is None
    clock.now_s += 5
    assert pace.seconds_left(20, 30) == pytest.approx(10)
    assert pace.seconds_left(30, 30) == 0


def test_times_are_told_as_people_read_them():
    assert [duration(s) for s in (0.2, 59, 600, 12_000)] == ["1 s", "59 s", "10 min", "3 h 20 min"]


def test_a_terminal_gets_a_bar():
    shown = console(is_terminal=True)
    with counted("images", console=shown) as on_done:
        on_done(3, 8)
    assert "images" in shown.file.getvalue()
    assert "3/8" in shown.file.getvalue()


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr("runs.counting.PLAIN_EVERY_S", 0)
    shown = console(is_terminal=False)
    with counted("images", console=shown) as on_done:
        on_done(2, 8)
        on_done(8, 8)
    first, last = shown.file.getvalue().splitlines()
    assert first.startswith("2 of 8 images, about ")
    assert first.endswith(" left")
    assert last.startswith("8 of 8 images")


def test_what_is_soon_over_says_nothing():
    shown = console(is_terminal=False)
    with counted("images", console=shown) as on_done:
        on_done(8, 8)
    assert not shown.file.getvalue()


def test_a_run_shows_how_far_a_stage_is_and_when_it_ends():
    clock = Clock()
    view = RunView()
    view.begin("caption")
    view.pace = Pace(clock)
    view.count(0, 40)
    clock.now_s += 30
    view.count(10, 40)
    rows = dict(view_rows(view))
    assert (rows["stage"], rows["done"]) == ("caption", "10 / 40")
    assert rows["stage ends in"] == "about 2 min"
    view.begin("warm_up")
    view.training = {"step": 5, "steps": 20}
    rows = dict(view_rows(view))
    assert rows["step"] == "5 / 20"
    assert "stage ends in" not in rows, "a stage that is resumed has no pace at first"
