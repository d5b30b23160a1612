"""Generation loops that are stopped whatever becomes of their test."""

from __future__ import annotations

import pytest

from tests.chaos.faults import start_faulty_generator


@pytest.fixture
def start_loop(monkeypatch):
    from pipeline.ray_coordinator import GenerationLoop

    monkeypatch.setattr("pipeline.ray_workers.start_generator", start_faulty_generator)
    loops = []

    def start(config, *, num_generators=1, **options):
        loop = GenerationLoop(config, **options)
        loops.append(loop)
        loop.start(num_generators=num_generators)
        return loop

    yield start
    for loop in loops:
        loop.stop(timeout_s=0)
