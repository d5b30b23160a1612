"""Names under which the parts of a run find each other in a Ray cluster."""

from __future__ import annotations


def namespace_of(run_id: str) -> str:
    """Ray namespace of a run."""
    return f"synth-{run_id}"


def registry_name(run_id: str, epoch: int = 0) -> str:
    """Name of a driver's weight registry: each has its own, which ends with it.

    Args:
        run_id: The run.
        epoch: The driver's; 0 if it took none.
    """
    return f"registry-{run_id}-e{epoch}" if epoch else f"registry-{run_id}"
