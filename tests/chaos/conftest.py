"""Generation loops that are stopped whatever becomes of their test."""

from __future__ import annotations

import pytest

from tests.kit.faults.cluster import stopped_loops
from tests.kit.faults.faults import FaultyStarter


@pytest.fixture
def start_loop():
    from pipeline.on_ray.coordinator import GenerationLoop

    def make(config, **options):
        starter = FaultyStarter(config, pinned_version=options.get("pinned_version"))
        return GenerationLoop(config, starter=starter, **options)

    with stopped_loops(make) as start:
        yield start
