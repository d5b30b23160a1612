"""Generation loops that are stopped whatever becomes of their test."""

from __future__ import annotations

import pytest

from tests.kit.faults.faults import FaultyHost


@pytest.fixture
def start_loop():
    from pipeline.on_ray.coordinator import GenerationLoop

    loops = []

    def start(config, *, num_generators=1, **options):
        host = FaultyHost(config, pinned_version=options.get("pinned_version"))
        loop = GenerationLoop(config, host=host, **options)
        loops.append(loop)
        loop.start(num_generators=num_generators)
        return loop

    yield start
    for loop in loops:
        loop.stop(timeout_s=0)
