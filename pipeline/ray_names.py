"""Names under which the parts of a run find each other in a Ray cluster."""

from __future__ import annotations


def namespace_of(run_id: str) -> str:
    """Ray namespace of a run."""
    return f"synth-{run_id}"


def registry_name(run_id: str) -> str:
    """Name of the run's weight registry."""
    return f"registry-{run_id}"
