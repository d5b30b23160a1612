"""What monitoring sees: names, values, and a dashboard that asks for those that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runs.gauges import GENERATION, REASONS, SAMPLES, SIGNALS, STATE, TRAINING, readings
from runs.progress import RunView

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana_dashboard.json"


def values(**figures) -> dict[tuple[str, str], float]:
    return {(signal.name, tag): value for signal, value, tag in readings(RunView(**figures))}


def test_names_are_unique_and_prometheus_takes_them():
    names = [signal.name for signal in SIGNALS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"synth_[a-z_]+", name) for name in names)


def test_before_anything_is_known_only_the_state_is_told():
    found = values()
    assert {name for name, _ in found} == {STATE.name}
    assert found[STATE.name, "running"] == 1.0


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("lease", "running"),
        ("waiting", "running"),
        ("starved", "starved"),
        ("paused", "paused"),
        ("draining", "draining"),
        ("finished", "finished"),
        ("failed", "failed"),
    ],
)
def test_exactly_one_state_is_on(state, shown):
    found = values(generation={"state": state})
    assert [tag for (name, tag), value in found.items() if name == STATE.name and value] == [shown]


def test_figures_of_both_sides_are_told():
    found = values(
        generation={
            "units_committed": 3,
            "samples_ok": 20,
            "samples_failed": 2,
            "reasons": {"decode_failed": 2},
            "images_per_s": None,
        },
        training={"publish_lag": 7, "staleness_mean": 0.5, "stage": "self_improve"},
    )
    assert found["synth_units_committed", ""] == 3.0
    assert found[SAMPLES.name, "ok"] == 20.0
    assert found[SAMPLES.name, "failed"] == 2.0
    assert found[REASONS.name, "decode_failed"] == 2.0
    assert found["synth_publish_lag_steps", ""] == 7.0
    assert found["synth_staleness_mean", ""] == 0.5
    assert ("synth_generated_images_per_s", "") not in found


def test_the_dashboard_asks_for_every_signal_and_no_other():
    asked = set(re.findall(r"ray_(synth_[a-z_]+)", DASHBOARD.read_text()))
    assert asked == {signal.name for signal in SIGNALS}


def test_the_dashboard_groups_by_tags_that_the_signals_have():
    tags = {signal.name: {"run_id", signal.tag} - {""} for signal in SIGNALS}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            (grouped,) = set(re.findall(r"by \(([^)]*)\)", target["expr"]))
            for name in re.findall(r"ray_(synth_[a-z_]+)", target["expr"]):
                assert set(grouped.split(", ")) <= tags[name], target["expr"]


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_fields_are_those_that_the_loop_tells():
    root = DASHBOARD.parents[1]
    sources = {
        "generation": ("pipeline/loop/control.py", "pipeline/on_ray/coordinator.py"),
        "training": ("trainers/stage.py", "trainers/progress.py", "trainers/step.py"),
    }
    tables = {"generation": GENERATION, "training": TRAINING}
    for side, files in sources.items():
        text = "".join((root / file).read_text() for file in files)
        missing = [field for field in tables[side] if f'"{field}"' not in text]
        assert not missing


def test_generators_that_wait_for_weights_to_relabel_are_not_called_starved():
    reason = "newer creation weights than version 0 are needed to relabel"
    found = values(generation={"state": "starved", "reason": reason})
    assert found[STATE.name, "waiting_for_weights"] == 1.0
    assert found[STATE.name, "starved"] == 0.0
