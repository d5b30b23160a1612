"""The gauges reach the port that Prometheus reads."""

from __future__ import annotations

import time
import urllib.request

import pytest

from runs.progress import RunView
from tests.kit.faults.cluster import local_ray

pytestmark = pytest.mark.ray

WAIT_S = 60


def test_prometheus_finds_the_gauges_of_a_run():
    import ray

    from runs.on_ray.gauges import RaySignals

    with local_ray(num_cpus=1, _system_config={"metrics_report_interval_ms": 500}):
        signals = RaySignals("a-run")
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        deadline_s = time.monotonic() + WAIT_S
        wanted: dict[str, str] = {}
        while len(wanted) < 2:
            assert time.monotonic() < deadline_s, f"not at {url} within {WAIT_S} s"
            signals.show(RunView(generation={"state": "paused", "units_committed": 3}))
            time.sleep(0.5)
            lines = read(url)
            for name in ("ray_synth_units_committed", "ray_synth_run_state"):
                if (line := first_of(lines, name)) is not None:
                    wanted[name] = line
        assert 'run_id="a-run"' in wanted["ray_synth_units_committed"]
        assert float(wanted["ray_synth_units_committed"].rsplit(" ", 1)[1]) == 3.0
        (paused,) = [
            line for line in read(url) if "synth_run_state{" in line and 'state="paused"' in line
        ]
        assert float(paused.rsplit(" ", 1)[1]) == 1.0


def read(url: str) -> list[str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode().splitlines()
    except OSError:
        return []


def first_of(lines: list[str], name: str) -> str | None:
    return next((line for line in lines if line.startswith(name + "{")), None)
